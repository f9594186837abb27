"""Pins one device: a single thread owns it, and concurrent calls hand it batches through a queue.

Because the device sees one endless stream of batches, nothing drains between the calls that Ray makes: while one
call waits for its last answers, the next call's first batches are already being uploaded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

import numpy as np

from vit_actor.device import BatchResult, Device
from vit_actor.errors import DeviceError


@dataclass(frozen=True)
class _Work:
    images: np.ndarray
    answer: Future[BatchResult]


class DeviceThread:
    """Opens a device on a thread of its own and serves `classify` calls from any number of threads.

    open_device is called on that thread, so that one thread opens, drives and closes the device.
    limit_seconds: a device that completes no batch for that long while it has some is taken to hang.
    busy_seconds: how long its answers so far kept the device (the sum of BatchResult.seconds).
    Raises whatever opening or compiling raised.
    """

    def __init__(self, open_device: Callable[[], Device], *, limit_seconds: float = 120.0) -> None:
        self._limit = limit_seconds
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._in_flight: deque[Future[BatchResult]] = deque()
        self._progress_at = time.monotonic()
        self._broken: BaseException | None = None
        self._closing = False
        self.busy_seconds = 0.0
        ready: Future[tuple[str, int, float, dict[str, float]]] = Future()
        self._thread = threading.Thread(target=self._drive, args=(open_device, ready), name="device", daemon=True)
        self._thread.start()
        self.description, self.batch_size, self.compile_seconds, self.start = ready.result()

    @property
    def waiting(self) -> int:
        """Batches that were handed over and that the device has not taken yet."""
        return self._work.qsize()

    def classify(self, images: np.ndarray) -> list[BatchResult]:
        """Answer images uint8 (n, height, width, 3), n >= 0, as results of at most batch_size images each, in order.

        The images must stay unchanged until it returns. Raises DeviceError when the device failed or hangs; the
        device is then lost, and so is every later call.
        """
        answers = []
        for start in range(0, len(images), self.batch_size):
            work = _Work(images[start : start + self.batch_size], Future())
            self._work.put(work)
            answers.append(work.answer)
        return [self._wait(answer) for answer in answers]

    def close(self) -> None:
        """Answer what was asked, close the device and end the thread; safe to call twice."""
        self._work.put(None)
        self._thread.join(self._limit)

    def _wait(self, answer: Future[BatchResult]) -> BatchResult:
        while True:
            try:
                return answer.result(timeout=min(1.0, self._limit / 4))
            except FutureTimeout:
                if self._broken or not self._thread.is_alive():
                    raise DeviceError(f"the device is lost ({self._broken or 'its thread ended'})") from self._broken
                if self._in_flight and time.monotonic() - self._progress_at > self._limit:
                    raise DeviceError(f"no answer for {self._limit:g} s: the device hangs") from None

    def _drive(self, open_device: Callable[[], Device], ready: Future[tuple[str, int, float, dict[str, float]]]) -> None:
        device: Device | None = None
        try:
            device = open_device()
            seconds = device.compile()
            ready.set_result((device.description, device.batch_size, seconds, device.start))
            for result in device.classify(self._batches()):
                self._progress_at = time.monotonic()
                self.busy_seconds += result.seconds
                self._in_flight.popleft().set_result(result)
        except BaseException as error:
            self._broken = error
            if not ready.done():
                ready.set_exception(error)
            for answer in self._in_flight:
                answer.set_exception(DeviceError(f"the device failed: {error}"))
        finally:
            if device is not None:
                device.close()

    def _batches(self) -> Iterator[np.ndarray | None]:
        while not self._closing:
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                if self._in_flight:
                    yield None
                    continue
                work = self._work.get()
            if work is None:
                self._closing = True
                break
            if not self._in_flight:
                self._progress_at = time.monotonic()
            self._in_flight.append(work.answer)
            yield work.images
