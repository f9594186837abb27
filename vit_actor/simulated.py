"""A T3000's timing without its answers: three engines on one clock, and classes that are a checksum of the pixels."""

import os
import re
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from vit_actor.device import TOP_K, BatchResult, check_batch, in_flight
from vit_actor.device_time import T3000_IMAGES_PER_SECOND
from vit_actor.errors import DeviceError, UserError

_PER_SECOND = {"us": 1e6, "ms": 1e3, "s": 1.0}
_DURATION = r"(\d+\.?\d*|\.\d+)\s*(us|ms|s)", "a duration; give a number and us, ms or s, such as 5ms"
_FORMS = {
    **dict.fromkeys(("compute", "upload", "readback", "compile"), _DURATION),
    "jitter": (r"0?\.\d+|0", "a number from 0 to below 1, such as 0.1"),
    **dict.fromkeys(("seed", "fail_after", "hang_after", "wrong_chip", "wrong_after"), (r"\d+", "a whole number")),
}
"""What a timing's parts look like as text, and what to say of another form."""


@dataclass(frozen=True)
class SimulatedTiming:
    """What a simulated T3000 takes per batch, in seconds, and when it breaks.

    compute: 64 images at eight times the published rate of an n300's chip (device_time.py).
    upload: 11.0 MB, 64 images of 224 tokens (196 patches and padding) of 768 uint8, at an assumed 10 GB/s over the four
        boards' PCIe links together: 1.1 ms.
    readback: assumed; the answers, 64 x 1024 bfloat16, are 131 KB, so latency rather than PCIe bandwidth decides.
    compile: assumed, and short on purpose: nothing is compiled, and no figure is published.
    jitter: every time is drawn from time x [1 - jitter, 1 + jitter], uniform, from `seed`.
    fail_after, hang_after: batches answered before the device fails or stops answering; None for never.
    wrong_chip: of the host, two a board, that answers the next class; None for none. wrong_after: batches before it does.
    """

    compute: float = 64 / T3000_IMAGES_PER_SECOND
    upload: float = 64 * 224 * 768 / 10e9
    readback: float = 0.1e-3
    compile: float = 0.1
    jitter: float = 0.0
    seed: int = 0
    fail_after: int | None = None
    hang_after: int | None = None
    wrong_chip: int | None = None
    wrong_after: int = 0

    @classmethod
    def from_spec(cls, spec: str) -> Self:
        """From text such as `compute=10ms,upload=5ms,jitter=0.1,seed=1,fail_after=100`; what it omits is the default.

        Durations carry a unit: us, ms or s. Raises UserError naming the part that is wrong.
        """
        values: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in spec.split(","))):
            name, _, text = (piece.strip() for piece in part.partition("="))
            if name not in _FORMS:
                raise UserError(f"simulated device: {part!r} is not understood; give name=value with {', '.join(_FORMS)}")
            if name in values:
                raise UserError(f"simulated device: {name} is given twice")
            form, wanted = _FORMS[name]
            if not (match := re.fullmatch(form, text)):
                raise UserError(f"simulated device: {name}={text} is not {wanted}")
            if match.lastindex:
                values[name] = float(match[1]) / _PER_SECOND[match[2]]
            else:
                values[name] = float(text) if name == "jitter" else int(text)
        if values.get("compute") == 0:
            raise UserError("simulated device: compute must be above 0, such as compute=10ms")
        return cls(**values)


def expected_class(pixels: np.ndarray, classes: int) -> np.ndarray:
    """The class a simulated device answers for each image: uint8 (n, height, width, 3) -> int32 (n,).

    The CRC-32 of every 16th row and column (14 x 14 of 224 x 224), modulo the number of classes: cheap enough to cost
    next to nothing (0.15 ms for 64 images), and two photographs share it only by the chance of 1/classes.
    """
    samples = np.ascontiguousarray(pixels[:, ::16, ::16])
    return np.array([zlib.crc32(sample) % classes for sample in samples], dtype=np.int32)


class SimulatedVit:
    """A `Device` that takes a T3000's time and answers `expected_class`, first of five consecutive classes.

    Upload, compute and read-back are engines that each take one batch at a time. A batch's finish is computed on that
    timeline and then slept for, so the host's cores stay free and late wake-ups do not add up.
    """

    def __init__(self, timing: SimulatedTiming | None = None, *, classes: int = 1000, batch_size: int = 64) -> None:
        """classes: how many the model it stands for has. batch_size: images per batch; the times are per batch of it."""
        self._timing, self._classes = timing or SimulatedTiming(), classes
        self.batch_size, self.shape, self.tolerance = batch_size, (32, 32, 3), 0.0
        boards = re.findall(r"\d+", os.environ.get("TT_VISIBLE_DEVICES", "")) or ["0", "1", "2", "3"]
        names = tuple(f"board {board} chip {2 * int(board) + i}" for board in boards for i in (0, 1))
        self.chips = names if batch_size % len(names) == 0 else names[:1]
        self._wrong = [name.endswith(f" chip {self._timing.wrong_chip}") for name in self.chips]
        self._random = np.random.default_rng(self._timing.seed)
        self._clock_offset = time.time() - time.monotonic()
        self._compile_seconds: float | None = None
        self.start: dict[str, float] = {}
        self._closed = threading.Event()
        self._uploaded = self._computed = self._read = 0.0  # when each engine is next free, on the monotonic clock
        self._submitted = self._answered = 0

    @property
    def description(self) -> str:
        t = self._timing
        times = f"compute {t.compute * 1e3:.2f} ms, upload {t.upload * 1e3:.2f} ms, read-back {t.readback * 1e3:.2f} ms"
        jitter = f", jitter {t.jitter:g}" if t.jitter else ""
        return f"simulated T3000: {times} per batch of {self.batch_size}{jitter}; answers are checksums, not predictions"

    def compile(self) -> float:
        if self._compile_seconds is None:
            time.sleep(self._timing.compile)
            self._compile_seconds = self.start["programs"] = self._timing.compile
        return self._compile_seconds

    def classify(self, batches: Iterable[np.ndarray | None]) -> Iterator[BatchResult]:
        self.compile()
        return in_flight(batches, self._submit, self._complete)

    def reference(self, images: np.ndarray) -> np.ndarray:
        """What it answers, five classes in place of scores, float32 (n, 5)."""
        return self._answers(images)[0].astype(np.float32)

    def close(self) -> None:
        """Refuse further work; also ends a simulated hang."""
        self._closed.set()

    def _submit(self, images: np.ndarray) -> tuple[float, BatchResult]:
        """Put a batch on the timeline: when its answer is read back (monotonic clock), and that answer."""
        check_batch(images, self.batch_size)
        t, previous = self._timing, self._read
        drawn = 1 + t.jitter * self._random.uniform(-1, 1, size=3)
        upload, compute, readback = np.array([t.upload, t.compute, t.readback]) * drawn
        started = max(time.monotonic(), self._uploaded)
        self._uploaded = started + upload
        self._computed = max(self._uploaded, self._computed) + compute
        self._read = max(self._computed, self._read) + readback
        classes, probabilities = self._answers(images)
        if any(self._wrong) and self._submitted >= self._timing.wrong_after:
            wrong = np.repeat(self._wrong, self.batch_size // len(self.chips))[: len(images)]
            classes[wrong] = (classes[wrong] + 1) % self._classes
        self._submitted += 1
        started_at, seconds = float(started + self._clock_offset), float(self._read - max(started, previous))
        return self._read, BatchResult(classes, probabilities, started_at, seconds, scores=classes.astype(np.float32))

    def _answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classes and probabilities, as in BatchResult."""
        k = min(TOP_K, self._classes)
        classes = (expected_class(images, self._classes)[:, None] + np.arange(k, dtype=np.int32)) % self._classes
        return classes, np.tile(0.5 ** np.arange(1, k + 1, dtype=np.float32), (len(images), 1))

    def _complete(self, flight: tuple[float, BatchResult]) -> BatchResult:
        finish, result = flight
        if self._answered == self._timing.hang_after:
            self._closed.wait()
        if (left := finish - time.monotonic()) > 0:
            time.sleep(left)
        if self._closed.is_set():
            raise DeviceError("the simulated device is closed")
        if self._answered == self._timing.fail_after:
            raise DeviceError(f"the simulated device failed after {self._answered} batches, as asked")
        self._answered += 1
        return result
