"""The one interface every device stands behind: T3000 mesh, CPU, simulation."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

TOP_K = 5
NO_CLASS = -1  # In place of a class: the model's answer to an image is no number
IN_FLIGHT = 2  # Batches on a device while its host waits for the next one: one is computed, one is uploaded


@dataclass(frozen=True)
class BatchResult:
    """The answer to one batch of n images.

    classes: int32 (n, k), best first, k = min(TOP_K, number of classes); NO_CLASS for an image whose logits are not all finite.
    probabilities: float32 (n, k), softmax over all classes, beside `classes`; 0 beside NO_CLASS.
    held: int32 (n,), the best of the classes that the data set holds (`best_of`); None where those are all, or not known.
    scores: float32 (n, classes) before the softmax, of a device with chips.
    started_at: Unix time in seconds when the device took the batch.
    seconds: wall time this batch kept the device from the next: completion minus the later of its own start and the previous
        batch's completion. Summed over batches it is the device's busy time, however many batches were in flight.
    """

    classes: np.ndarray
    probabilities: np.ndarray
    started_at: float
    seconds: float
    held: np.ndarray | None = None
    scores: np.ndarray | None = None


class Device(Protocol):
    """A ViT on one device. Not thread-safe: one thread opens, drives and closes it."""

    batch_size: int  # Images per full batch, over the whole mesh
    shape: tuple[int, int, int]  # Of an image: height, width, 3
    chips: tuple[str, ...]
    """Names of the chips, in the order in which they share a batch evenly; none where there is nothing to check (`SelfCheck`)."""
    tolerance: float  # How far a sound chip's scores may be from `reference`, as `self_check.error` measures it
    start: dict[str, float]
    """What its start took so far. Seconds by phase, of those it has: import (of its library), open (the chips), weights,
    programs, trace. On chips also kernels_built: how many were compiled for want of a cached one, 0 in a warm start."""

    @property
    def description(self) -> str:
        """One line for reports: what runs, on what, at which precision. Starts with 'simulated' if it is."""

    def compile(self) -> float:
        """Load weights, compile, capture the trace; seconds it took. Calling it again returns the same number."""

    def reference(self, images: np.ndarray) -> np.ndarray:
        """Scores float32 (n, classes) of images uint8 (n, height, width, 3), computed in float32 on the CPU; from any thread."""

    def classify(self, batches: Iterable[np.ndarray | None]) -> Iterator[BatchResult]:
        """Answer batches in order, keeping several in flight.

        batches: uint8 (n, height, width, 3) with 1 <= n <= batch_size, as the checkpoint's preprocessing resized them; short ones
            are padded inside and cut outside. The device copies what it needs before asking for the next item, so the caller may
            reuse the array. None means "nothing to do at present": the device completes and yields its oldest batch in flight, if
            any, so that no answer waits for the next question.
        Raises DeviceError when closed or when the device fails, ValueError for other batches than these.
        """

    def close(self) -> None:
        """Release everything; safe to call twice and after an error."""


def in_flight[Flight](
    batches: Iterable[np.ndarray | None],
    start: Callable[[np.ndarray], Flight],
    finish: Callable[[Flight], BatchResult],
    *,
    most: int = IN_FLIGHT,
    abandon: Callable[[], None] = lambda: None,
) -> Iterator[BatchResult]:
    """`Device.classify`, with `most` batches started ahead of the one that is finished.

    abandon: waits for what was started, where nobody takes the answers any more.
    """
    flights: deque[Flight] = deque()
    try:
        for images in batches:
            if images is not None:
                flights.append(start(images))
            if flights and (images is None or len(flights) > most):
                yield finish(flights.popleft())
        while flights:
            yield finish(flights.popleft())
    finally:
        if flights:
            abandon()


def check_batch(images: np.ndarray, most: int, shape: tuple[int, ...] | None = None) -> None:
    """Raises ValueError unless images are uint8 (1 to `most`, height, width, 3), of that shape if one is given."""
    fits = images.ndim == 4 and images.shape[3] == 3 and shape in (None, images.shape[1:])
    if images.dtype != np.uint8 or not fits or not 1 <= len(images) <= most:
        sides = ", ".join(map(str, shape or ("height", "width", 3)))
        raise ValueError(f"a batch must be uint8 (1 to {most}, {sides}), not {images.dtype} {images.shape}")


def top_k(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, classes) -> classes int32 (n, k) best first, ties to the lower class, and probabilities float32 (n, k).

    A row with a logit that is not finite is no answer: NO_CLASS, at a probability of 0.
    """
    logits = logits.astype(np.float32, copy=False)
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        classes, probabilities = top_k(np.where(finite[:, None], logits, 0))
        return np.where(finite[:, None], classes, np.int32(NO_CLASS)), np.where(finite[:, None], probabilities, np.float32(0))
    k = min(TOP_K, logits.shape[1])
    # One integer per class that sorts by logit, then by lower class: only k of them need sorting (10x faster than all).
    bits = (logits + 0.0).view(np.int32).astype(np.int64)  # + 0.0 makes -0.0 equal to 0.0
    ordered = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = (ordered << 32) + np.arange(logits.shape[1])[::-1]
    best = np.sort(np.partition(keys, -k, axis=1)[:, -k:], axis=1)[:, ::-1]
    order = logits.shape[1] - 1 - (best & 0xFFFFFFFF)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = np.take_along_axis(exponents, order, axis=1) / exponents.sum(axis=1, keepdims=True)
    return order.astype(np.int32), probabilities.astype(np.float32)


def best_of(logits: np.ndarray, classes: tuple[int, ...] | None) -> np.ndarray | None:
    """Logits (n, all classes) -> the best of some classes, in ascending order: int32 (n,), NO_CLASS where `top_k` has it.

    None without classes. For data sets of fewer classes than the checkpoint's, such as ImageNet-A's 200 of 1,000.
    """
    if classes is None:
        return None
    best = np.array(classes, np.int32)[logits[:, classes].argmax(axis=1)]
    return np.where(np.isfinite(logits).all(axis=1), best, np.int32(NO_CLASS))
