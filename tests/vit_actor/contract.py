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
    check_shapes_and_order(device, images, [full, 1, full // 2, full])
    check_reuse(device, images)
    check_ticks(device, images)
    check_flights(device, images, ahead)
    check_abandoned(device, images)
    check_refusals(device, images)
    check_busy_seconds(device, images)
    assert device.compile() == device.compile() >= 0
    assert "\n" not in device.description


def check_shapes_and_order(device: Device, images: Images, sizes: list[int]) -> None:
    batches = [images(size, seed) for seed, size in enumerate(sizes)]
    results = list(device.classify(iter(batches)))
    assert [len(result.classes) for result in results] == sizes
    for result in results:
        assert (result.classes.dtype, result.probabilities.dtype) == (np.int32, np.float32)
        assert result.classes.shape == result.probabilities.shape == (len(result.classes), 5)
        assert (np.diff(result.probabilities, axis=1) <= 0).all()
        assert (result.probabilities.sum(axis=1) <= 1 + 1e-5).all()
    assert_equal(results, [result for batch in batches for result in device.classify([batch])])


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

    strided = [np.repeat(batch, 2, axis=0)[::2] for batch in batches]
    assert not strided[0].flags.c_contiguous
    expected = list(device.classify(batches))
    assert_equal(list(device.classify(refilled())), expected)
    assert_equal(list(device.classify(strided)), expected)


def check_ticks(device: Device, images: Images) -> None:
    """None completes the oldest batch before anything else is asked, and nothing where nothing is in flight."""
    asked: list[str] = []

    def batches() -> Iterator[np.ndarray | None]:
        for name in ("tick", "one", "two", "tick", "tick", "tick"):
            asked.append(name)
            yield None if name == "tick" else images(2, len(name))

    results = device.classify(batches())
    next(results)
    assert asked in (["tick", "one", "two", "tick"], ["tick", "one"])
    assert len(list(results)) == 1
    assert list(device.classify([])) == []


def check_flights(device: Device, images: Images, ahead: int) -> None:
    asked: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        for index in range(6):
            asked.append(index)
            yield images(device.batch_size, index)

    assert [len(asked) for _ in device.classify(batches())] == [min(n + 1 + ahead, 6) for n in range(6)]


def check_abandoned(device: Device, images: Images) -> None:
    """Batches that nobody waits for leave nothing in the next."""
    batch = images(device.batch_size, 42)
    expected = list(device.classify([batch]))
    results: Any = device.classify(images(device.batch_size, seed) for seed in range(9))
    next(results)
    results.close()
    assert_equal(list(device.classify([batch])), expected)


def check_refusals(device: Device, images: Images) -> None:
    good = images(2, 0)
    for wrong in (images(device.batch_size + 1, 0), good[:0], good.astype(np.float32), good[..., :2], good[0]):
        with pytest.raises(ValueError, match=f"a batch must be uint8 \\(1 to {device.batch_size}"):
            list(device.classify([wrong]))


def check_busy_seconds(device: Device, images: Images) -> None:
    """Seconds of all batches lie within the run, less the time that the caller was away."""
    away = 0.5

    def batches() -> Iterator[np.ndarray | None]:
        yield images(2, 0)
        time.sleep(away)
        yield None
        yield from (images(device.batch_size, seed) for seed in range(4))

    before, began = time.time(), time.monotonic()
    results = list(device.classify(batches()))
    elapsed, after = time.monotonic() - began, time.time()
    started = [result.started_at for result in results]
    assert before <= started[0] <= started[-1] <= after
    assert started == sorted(started)
    assert all(result.seconds >= 0 for result in results)
    assert 0 < sum(result.seconds for result in results) <= elapsed + 0.01
