"""The device's thread: answers in order, to whom they belong, from concurrent calls, and one clear error when it fails."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.waiting import wait_until
from vit_actor.actor import DeviceThread, Part
from vit_actor.errors import DeviceError
from vit_actor.self_check import ROUNDS, CheckFailed
from vit_actor.simulated import SimulatedTiming, SimulatedVit, expected_class


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@contextmanager
def device_thread(spec: str = "compute=1ms", more_coming: Callable[[], bool] = lambda: False) -> Iterator[DeviceThread]:
    timing = SimulatedTiming.from_spec(spec)
    device = DeviceThread(lambda: SimulatedVit(timing), limit_seconds=30, more_coming=more_coming)
    yield device
    device.close()


def assert_answers(answers: list[list[Part]], chunks: list[np.ndarray]) -> None:
    for chunk, parts in zip(chunks, answers, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.classes[:, 0] for part in parts]), expected_class(chunk, 1000))


def test_concurrent_calls_each_get_the_answers_to_their_own_images() -> None:
    chunks = [images(count, seed) for seed, count in enumerate((512, 64, 1, 300, 65, 512, 7, 128))]
    with device_thread("compute=1ms,upload=1ms,readback=1ms") as device, ThreadPoolExecutor(4) as pool:
        assert_answers(list(pool.map(device.classify, chunks)), chunks)


@pytest.mark.parametrize("sizes", [[512, 88] * 4, [50] * 20, [1] * 70, [63, 65, 64, 1, 300], [64, 64], [5]])
def test_batches_are_full_across_calls_while_more_is_coming(sizes: list[int]) -> None:
    ended = threading.Event()
    chunks = [images(count, seed) for seed, count in enumerate(sizes)]
    with device_thread(more_coming=lambda: not ended.is_set()) as device, ThreadPoolExecutor(len(sizes)) as pool:
        calls = [pool.submit(device.classify, chunk) for chunk in chunks]
        for _ in range(3):
            device.check()  # batches of its own that count with no other
        wait_until(lambda: device._asked == sum(sizes) + 3 * ROUNDS * 64, 20, every=0.001)
        ended.set()
        answers = [call.result(timeout=20) for call in calls]
    assert_answers(answers, chunks)
    batches: dict[int, list[tuple[int, int, int]]] = {}
    for part in itertools.chain(*answers):
        batches.setdefault(part.number, []).append((part.first, part.first + len(part.classes), part.images))
    full, rest = divmod(sum(sizes), 64)
    assert sorted(batches) == list(range(full + (rest > 0)))
    for number, spans in batches.items():  # they tile the batch
        spans.sort()
        assert [first for first, _, _ in spans] == [0, *(last for _, last, _ in spans[:-1])]
        assert {images for _, _, images in spans} == {spans[-1][1]} == {64 if number < full else rest}


@pytest.mark.parametrize(("count", "batches"), [(0, []), (1, [1]), (64, [64]), (65, [64, 1])])
@pytest.mark.parametrize("more_coming", [False, True], ids=["", "though more is said to be coming"])
def test_a_call_is_answered_without_another_to_push_it(count: int, batches: list[int], more_coming: bool) -> None:
    with device_thread(more_coming=lambda: more_coming) as device:
        parts = device.classify(images(count))
    assert [(part.first, len(part.classes), part.images) for part in parts] == [(0, size, size) for size in batches]


@pytest.mark.parametrize(("count", "more_coming"), [(256, False), (70, True)], ids=["in flight", "waiting for more"])
def test_close_answers_what_was_asked_first(count: int, more_coming: bool) -> None:
    with ThreadPoolExecutor(1) as pool:
        with device_thread("compute=20ms", more_coming=lambda: more_coming) as device:
            call = pool.submit(device.classify, images(count))
            wait_until(lambda: device._asked, 20, every=0.001)
        assert sum(len(part.classes) for part in call.result(timeout=10)) == count


def test_the_device_is_opened_driven_and_closed_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, int] = {}

    def noted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls[name] = threading.get_ident()
            return original(*args)

        return call

    for name in ("__init__", "compile", "_submit", "_complete", "close"):
        monkeypatch.setattr(SimulatedVit, name, noted(name, getattr(SimulatedVit, name)))
    device = DeviceThread(SimulatedVit)
    device.classify(images(64))
    device.close()
    assert list(calls) == ["__init__", "compile", "_submit", "_complete", "close"]
    assert len(set(calls.values()) - {threading.get_ident()}) == 1 == len(set(calls.values()))


def test_opening_failures_reach_the_caller_unchanged() -> None:
    def broken() -> SimulatedVit:
        raise DeviceError("no board answers")

    with pytest.raises(DeviceError, match=r"^no board answers$"):
        DeviceThread(broken)


def test_a_failing_device_fails_every_waiting_and_every_later_call() -> None:
    says = r"^the device failed: the simulated device failed after 7 batches"
    with device_thread(f"compute=5ms,fail_after={ROUNDS + 3}") as device, ThreadPoolExecutor(3) as pool:
        for call in [pool.submit(device.classify, images(512, seed)) for seed in range(3)]:
            with pytest.raises(DeviceError, match=says):
                call.result(timeout=20)
        with pytest.raises(DeviceError, match=says):
            device.classify(images(64, 9))


def test_a_chip_that_turns_wrong_is_named_by_the_next_check() -> None:
    with device_thread(f"compute=1ms,wrong_chip=3,wrong_after={2 * ROUNDS}") as device:
        device.check()
        with pytest.raises(CheckFailed) as failed:
            device.check()
    assert failed.value.chips == ["board 1 chip 3"]


def test_a_hanging_device_is_noticed_within_its_limit() -> None:
    timing = SimulatedTiming.from_spec(f"compute=5ms,hang_after={ROUNDS + 2}")
    device = DeviceThread(lambda: SimulatedVit(timing), limit_seconds=1)
    with pytest.raises(DeviceError, match="no answer for 1 s: the device hangs"):
        device.classify(images(512))


def test_it_tells_how_many_batches_wait_and_how_long_the_device_was_busy() -> None:
    with device_thread("compute=50ms") as device, ThreadPoolExecutor(1) as pool:
        call = pool.submit(device.classify, images(512))
        wait_until(lambda: device.waiting, 20, every=0.001)
        assert device.waiting <= 8
        results = call.result(timeout=20)
        assert device.waiting == 0
        assert device.busy_seconds == pytest.approx(sum(result.seconds for result in results))
        assert device.busy_seconds >= 8 * 0.05
