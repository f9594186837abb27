"""What every device promises (`vit_actor.device.Device`), asked of whichever is at hand."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from vit_actor.device import BatchResult, Device

Images = Callable[[int, int], np.ndarray]
"""(how many, seed) -> uint8 (n, height, width, 3) that the device takes, each image another."""


def assert_equal(got: list[BatchResult], expected: list[BatchResult]) -> None:
    assert [result.classes[:, 0].tolist() for result in got] == [result.classes[:, 0].tolist() for result in expected]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


def check_device(device: Device, images: Images, *, ahead: int = 2) -> None:
    """ahead: batches that it starts before it answers the first."""
    full = device.batch_size
    batches = [images(size, seed) for seed, size in enumerate([full, 1, full // 2, full])]
    results = list(device.classify(iter(batches)))
    for result, batch in zip(results, batches, strict=True):
        assert (result.classes.dtype, result.probabilities.dtype) == (np.int32, np.float32)
        assert result.classes.shape == result.probabilities.shape == (len(batch), 5)
        assert (np.diff(result.probabilities, axis=1) <= 0).all()
        assert (result.probabilities.sum(axis=1) <= 1 + 1e-5).all()
    assert_equal(results, [result for batch in batches for result in device.classify([batch])])
    check_reuse(device, images)
    check_order(device, images, ahead)
    check_abandoned(device, images)
    check_busy_seconds(device, images)
    good = images(2, 0)
    for wrong in (images(full + 1, 0), good[:0], good.astype(np.float32), good[..., :2], good[0]):
        with pytest.raises(ValueError, match=f"a batch must be uint8 \\(1 to {full}"):
            list(device.classify([wrong]))
    assert device.compile() == device.compile() >= 0
    assert "\n" not in device.description


def check_reuse(device: Device, images: Images) -> None:
    """The caller may refill its array once it is asked for the next; it may be read-only, or not lie in one piece."""
    batches = [images(4, seed) for seed in range(6)]
    buffer = np.empty_like(batches[0])

    def refilled() -> Iterator[np.ndarray]:
        for batch in batches:
            buffer[:] = batch
            view = buffer[:]
            view.flags.writeable = False
            yield view
            buffer[:] = 0

    expected = list(device.classify(batches))
    assert_equal(list(device.classify(refilled())), expected)
    assert_equal(list(device.classify(np.repeat(batch, 2, axis=0)[::2] for batch in batches)), expected)


def check_order(device: Device, images: Images, ahead: int) -> None:
    """A few batches are in flight; None completes the oldest before anything else is asked, and nothing where none is."""
    asked: list[int | None] = []

    def batches(*sizes: int | None) -> Iterator[np.ndarray | None]:
        for size in sizes:
            asked.append(size)
            yield images(size, len(asked)) if size else None

    results = device.classify(batches(None, 1, 2, None, None, None))
    next(results)
    assert asked in ([None, 1, 2, None], [None, 1])
    assert len(list(results)) == 1
    asked.clear()
    assert [len(asked) for _ in device.classify(batches(*[device.batch_size] * 6))] == [min(n + 1 + ahead, 6) for n in range(6)]
    assert list(device.classify([])) == []


def check_abandoned(device: Device, images: Images) -> None:
    """Batches that nobody waits for leave nothing in the next."""
    batch = images(device.batch_size, 42)
    expected = list(device.classify([batch]))
    results: Any = device.classify(images(device.batch_size, seed) for seed in range(9))
    next(results)
    results.close()
    assert_equal(list(device.classify([batch])), expected)


def check_busy_seconds(device: Device, images: Images) -> None:
    """Seconds of all batches lie within the run, less the time that the caller was away."""

    def batches() -> Iterator[np.ndarray | None]:
        yield images(2, 0)
        time.sleep(0.5)
        yield None
        yield from (images(device.batch_size, seed) for seed in range(4))

    before, began = time.time(), time.monotonic()
    results = list(device.classify(batches()))
    elapsed, after = time.monotonic() - began, time.time()
    started = [before, *(result.started_at for result in results), after]
    assert started == sorted(started)
    assert all(result.seconds >= 0 for result in results)
    assert 0 < sum(result.seconds for result in results) <= elapsed + 0.01
