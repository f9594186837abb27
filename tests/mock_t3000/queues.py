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


@dataclass(frozen=True)
class Wait:
    """Holds its queue until the event is reached."""

    event: Event


@dataclass
class Queues:
    """Two command queues, and the traces captured from the first.

    ahead: a queue that, against the rule, runs as soon and as far as its events allow: the other extreme.
    """

    ahead: int | None = None
    pending: tuple[deque[Command | Event | Wait], deque[Command | Event | Wait]] = field(
        default_factory=lambda: (deque(), deque())
    )
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
        self._append(queue, event)
        return event

    def wait(self, queue: int, event: Event) -> None:
        """Hold the queue until the event, without holding the caller."""
        self._append(queue, Wait(event))

    def synchronize(self, event: Event) -> None:
        """Run what the event needs."""
        while not event.reached:
            assert self.pending[event.queue], "waits for an event that no queue will reach"
            self._run_next(event.queue)

    def _append(self, queue: int, item: Command | Event | Wait) -> None:
        self.pending[queue].append(item)
        if self.ahead is None:
            return
        running = self.pending[self.ahead]
        while running and not (isinstance(running[0], Wait) and not running[0].event.reached):
            self._run_next(self.ahead)

    def _run_next(self, queue: int) -> None:
        item = self.pending[queue].popleft()
        if isinstance(item, Event):
            item.reached = True
        elif isinstance(item, Wait):
            self.synchronize(item.event)
        else:
            item()

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
