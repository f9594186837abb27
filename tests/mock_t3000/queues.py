"""Command queues, events and traces as a mesh has them, run as late as the program allows.

A command is a function without arguments. Each queue runs its own in order; between queues only events
order anything. Nothing runs until something waits for it, and then only what it needs: a program that
forgot an event, or touches memory that a queue has not read yet, gets a wrong answer every time
instead of once in a while.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

Command = Callable[[], None]


@dataclass(eq=False)
class Event:
    """A point in one queue; `reached` once everything before it has run."""

    queue: int
    reached: bool = False


@dataclass
class Queues:
    """Two command queues, and the traces captured from the first.

    ahead: a queue that, against the rule, runs as soon and as far as its events allow: the other extreme.
    pending: what has not run, by queue: each command, and the event that it needs.
    """

    ahead: int | None = None
    pending: tuple[deque[tuple[Command, Event | None]], ...] = field(default_factory=lambda: (deque(), deque()))
    traces: dict[int, list[Command]] = field(default_factory=dict)
    capture: list[Command] | None = None
    captured: int = 0

    def enqueue(self, queue: int, command: Command) -> None:
        """Append to the queue, or to the trace that is being captured, which runs nothing."""
        if self.capture is not None:
            self.capture.append(command)
        else:
            self._append(queue, command)

    def record(self, queue: int) -> Event:
        event = Event(queue)
        self._append(queue, lambda: setattr(event, "reached", True))
        return event

    def wait(self, queue: int, event: Event) -> None:
        """Hold the queue until the event, without holding the caller."""
        self._append(queue, lambda: self.synchronize(event), event)

    def synchronize(self, event: Event) -> None:
        """Run what the event needs."""
        while not event.reached:
            assert self.pending[event.queue], "waits for an event that no queue will reach"
            self._run_next(event.queue)

    def _append(self, queue: int, command: Command, needs: Event | None = None) -> None:
        self.pending[queue].append((command, needs))
        if self.ahead is not None:
            running = self.pending[self.ahead]
            while running and (running[0][1] is None or running[0][1].reached):
                self._run_next(self.ahead)

    def _run_next(self, queue: int) -> None:
        command, _ = self.pending[queue].popleft()
        command()

    def finish(self) -> None:
        """Run everything."""
        for queue in (0, 1):
            self.synchronize(self.record(queue))

    def begin_trace(self) -> int:
        assert self.capture is None, "a capture is already under way"
        self.finish()
        self.capture = []
        self.captured += 1
        return self.captured

    def end_trace(self, trace: int) -> None:
        assert self.capture is not None, "no capture is under way"
        self.traces[trace], self.capture = self.capture, None

    def execute_trace(self, trace: int, queue: int) -> None:
        for command in self.traces[trace]:
            self._append(queue, command)

    def release_trace(self, trace: int) -> None:
        self.finish()
        del self.traces[trace]
