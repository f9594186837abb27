"""Pins one device: a single thread owns it, and concurrent calls hand it images through a queue.

A batch may hold the end of one call and the beginning of the next, so that nothing drains between the calls that Ray makes.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from vit_actor.device import BatchResult, Device
from vit_actor.errors import DeviceError
from vit_actor.self_check import SelfCheck

LOOK_SECONDS = 0.05  # Between two questions whether more images are coming, while a batch that is not full waits for them
MOST_HELD_SECONDS = 3.0  # After so long, an idle device takes a batch that is not full even if more images are expected


@dataclass(frozen=True, kw_only=True)
class Part(BatchResult):
    """The answers to a call's own images of one batch: of its `images` those from the `first`-th on; scores only of a check.

    number: the batch's, counted from 0 since the device was opened.
    """

    number: int
    first: int
    images: int


@dataclass
class _Call:
    """Images, how many of them were given to the device, and their answers so far. alone: they fill batches of their own."""

    images: np.ndarray
    alone: bool = False
    taken: int = 0
    parts: list[Part] = field(default_factory=list)
    answer: Future[list[Part]] = field(default_factory=Future)


_Batch = list[tuple[_Call, int]]  # Whose images a batch holds, in its order, and how many of each


class DeviceThread:
    """Opens a device on a thread of its own and serves `classify` calls from any number of threads.

    open_device is called on that thread, so that one thread opens, drives and closes the device.
    limit_seconds: a device that completes no batch for that long while it has some is taken to hang.
    more_coming: whether another call will come. Asked on that thread while the device is idle and the images that are left fill
        no batch: they wait for that call, up to MOST_HELD_SECONDS.
    busy_seconds: how long its answers so far kept the device (the sum of BatchResult.seconds). images: that it has answered.
    Raises whatever opening or compiling raised, CheckFailed where a chip's answers are wrong.
    """

    def __init__(
        self, open_device: Callable[[], Device], *, limit_seconds: float = 120.0, more_coming: Callable[[], bool] = lambda: False
    ) -> None:
        self._limit = limit_seconds
        self._more_coming = more_coming
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._untaken: deque[_Call] = deque()
        self._alone: deque[_Call] = deque()
        self._check: SelfCheck | None = None
        self._in_flight: deque[_Batch] = deque()
        self._progress_at = time.monotonic()
        self._broken: BaseException | None = None
        self._asked = self._taken = 0
        self._joined: np.ndarray | None = None
        self._asking = threading.Lock()
        self.busy_seconds, self.images = 0.0, 0
        ready: Future[tuple[Device, float]] = Future()
        self._thread = threading.Thread(target=self._drive, args=(open_device, ready), name="device", daemon=True)
        self._thread.start()
        device, self.compile_seconds = ready.result()
        self.description, self.batch_size = device.description, device.batch_size
        self.chips, self.start = device.chips, device.start

    @property
    def waiting(self) -> int:
        """Batches' worth of images that were handed over and that the device has not taken yet."""
        return -(-(self._asked - self._taken) // self.batch_size)

    @property
    def idle(self) -> bool:
        """Whether all that was asked is answered."""
        return self._asked == self._taken and not self._in_flight

    def classify(self, images: np.ndarray) -> list[Part]:
        """Answer images uint8 (n, height, width, 3), n >= 0: parts of batches that together are the images, in order.

        The images must stay unchanged until it returns. Raises DeviceError when the device failed or hangs; the
        device is then lost, and so is every later call.
        """
        return self._answered(_Call(images)) if len(images) else []

    def check(self) -> None:
        """Classify the known batches between the others. Of a device with chips only.

        Raises CheckFailed where a chip's answers are wrong, and otherwise as `classify` does.
        """
        assert self._check
        self._check.judge(self._answered(_Call(np.concatenate(self._check.batches), alone=True)))

    def _answered(self, call: _Call) -> list[Part]:
        with self._asking:
            self._asked += len(call.images)
        self._calls.put(call)
        while True:
            try:
                return call.answer.result(timeout=min(1.0, self._limit / 4))
            except TimeoutError:
                if self._broken or not self._thread.is_alive():
                    raise DeviceError(f"the device failed: {self._broken or 'it is closed'}") from self._broken
                if self._in_flight and time.monotonic() - self._progress_at > self._limit:
                    raise DeviceError(f"no answer for {self._limit:g} s: the device hangs") from None

    def close(self) -> None:
        """Answer what was asked, close the device and end the thread; safe to call twice."""
        self._calls.put(None)
        self._thread.join(self._limit)

    def _drive(self, open_device: Callable[[], Device], ready: Future[tuple[Device, float]]) -> None:
        device: Device | None = None
        try:
            device = open_device()
            ready.set_result((device, self._compile(device)))
            number = 0
            for result in device.classify(self._batches(device.batch_size)):
                self._progress_at = time.monotonic()
                self.busy_seconds += result.seconds
                batch = self._in_flight.popleft()
                _answer(number, batch, result)
                if not batch[0][0].alone:
                    number += 1
                    self.images += sum(count for _, count in batch)
        except BaseException as error:
            self._broken = error  # which the calls that wait see for themselves
            if not ready.done():
                ready.set_exception(error)
        finally:
            if device is not None:
                device.close()

    def _compile(self, device: Device) -> float:
        """Compile it and check its chips; the seconds that compiling took. The CPU computes the reference meanwhile."""
        if not device.chips:
            return device.compile()
        with ThreadPoolExecutor(1) as cpu:
            known = cpu.submit(SelfCheck, device)
            seconds = device.compile()
            self._check = known.result()
        self._check.judge(device.classify(self._check.batches))
        return seconds

    def _batches(self, size: int) -> Iterator[np.ndarray | None]:
        """Full batches as long as there are images for them; what is left waits for more images if some are coming."""
        closing = False
        while True:
            wait = not (self._in_flight or self._untaken or closing)
            with suppress(queue.Empty):
                while call := self._calls.get(block=wait):
                    (self._alone if call.alone else self._untaken).append(call)
                    wait = False
                closing = True
            while self._alone:
                yield self._take(size, self._alone)
            left = sum(len(call.images) - call.taken for call in self._untaken)
            if left >= size or (left and (closing or not self._holds())):
                yield self._take(min(left, size), self._untaken)
            elif self._in_flight:
                yield None
            elif closing:
                return

    def _holds(self) -> bool:
        """Whether images that fill no batch wait for more: while batches are in flight, and while more images are coming."""
        held_until = time.monotonic() + MOST_HELD_SECONDS
        while not self._in_flight and self._calls.empty():
            if time.monotonic() > held_until or not self._more_coming():
                return not self._calls.empty()
            time.sleep(LOOK_SECONDS)
        return True

    def _take(self, count: int, calls: deque[_Call]) -> np.ndarray:
        """The next `count` images of calls, uint8 (count, height, width, 3); copied only where they are of several calls."""
        if not self._in_flight:
            self._progress_at = time.monotonic()
        batch: _Batch = []
        pieces: list[np.ndarray] = []
        while missing := count - sum(map(len, pieces)):
            call = calls[0]
            pieces.append(call.images[call.taken : call.taken + missing])
            batch.append((call, len(pieces[-1])))
            call.taken += len(pieces[-1])
            if call.taken == len(call.images):
                calls.popleft()
        self._in_flight.append(batch)
        self._taken += count
        if len(pieces) == 1:
            return pieces[0]
        if self._joined is None:  # one is enough: a device has copied a batch when it asks for the next
            self._joined = np.empty((self.batch_size, *pieces[0].shape[1:]), np.uint8)
        return np.concatenate(pieces, out=self._joined[:count])


def _answer(number: int, batch: _Batch, result: BatchResult) -> None:
    """Give each call its part of a batch's answers, and return it once it has all of them."""
    first, images = 0, len(result.classes)
    for call, count in batch:
        mine = slice(first, first + count)
        held = None if result.held is None else result.held[mine]
        scores = result.scores if call.alone else None  # kept no longer than the batch
        answers = result.classes[mine], result.probabilities[mine], result.started_at, result.seconds, held, scores
        call.parts.append(Part(*answers, number=number, first=first, images=images))
        if sum(len(part.classes) for part in call.parts) == len(call.images):
            call.answer.set_result(call.parts)
        first += count
