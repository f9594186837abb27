"""The device's thread: answers in order, to whom they belong, from concurrent calls, and one clear error when it fails."""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vit_actor.actor import DeviceThread, Part
from vit_actor.errors import DeviceError
from vit_actor.simulated import SimulatedTiming, SimulatedVit, expected_class

CLASSES = 1000


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def device_thread(spec: str, limit_seconds: float = 30, more_coming: Callable[[], bool] = lambda: False) -> DeviceThread:
    timing = SimulatedTiming.from_spec(spec)
    return DeviceThread(lambda: SimulatedVit(timing, classes=CLASSES), limit_seconds=limit_seconds, more_coming=more_coming)


def test_concurrent_calls_each_get_the_answers_to_their_own_images() -> None:
    device = device_thread("compute=1ms,upload=1ms,readback=1ms")
    chunks = [images(count, seed) for seed, count in enumerate((512, 64, 1, 300, 65, 512, 7, 128))]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(device.classify, chunks))
    device.close()
    for chunk, parts in zip(chunks, answers, strict=True):
        got = np.concatenate([part.classes[:, 0] for part in parts])
        np.testing.assert_array_equal(got, expected_class(chunk, CLASSES))


def batches_of(answers: list[list[Part]]) -> dict[int, list[tuple[int, int, int]]]:
    """Of each batch, by number: its parts (first, last, images), sorted."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for part in itertools.chain(*answers):
        found.setdefault(part.number, []).append((part.first, part.last, part.images))
    return {number: sorted(parts) for number, parts in sorted(found.items())}


@pytest.mark.parametrize("sizes", [[512, 88] * 4, [50] * 20, [1] * 70, [63, 65, 64, 1, 300], [64, 64], [5]])
def test_batches_are_full_across_calls_while_more_is_coming(sizes: list[int]) -> None:
    ended = threading.Event()
    device = device_thread("compute=1ms", more_coming=lambda: not ended.is_set())
    chunks = [images(count, seed) for seed, count in enumerate(sizes)]
    with ThreadPoolExecutor(len(sizes)) as pool:
        calls = [pool.submit(device.classify, chunk) for chunk in chunks]
        while device._asked < sum(sizes):
            time.sleep(0.001)
        ended.set()
        answers = [call.result(timeout=20) for call in calls]
    device.close()
    for chunk, parts in zip(chunks, answers, strict=True):
        got = np.concatenate([part.classes[:, 0] for part in parts])
        np.testing.assert_array_equal(got, expected_class(chunk, CLASSES))
    batches = batches_of(answers)
    total = sum(sizes)
    assert [parts[-1][2] for parts in batches.values()] == [64] * (total // 64) + [total % 64] * (total % 64 > 0)
    for spans in batches.values():  # they tile the batch
        assert [first for first, _, _ in spans] == [0, *(last for _, last, _ in spans[:-1])]
        assert spans[-1][1] == spans[-1][2]


def test_an_idle_device_does_not_wait_for_ever_for_what_is_said_to_be_coming() -> None:
    device = device_thread("compute=1ms", more_coming=lambda: True)
    [part] = device.classify(images(5, 0))
    assert (part.first, part.last, part.images) == (0, 5, 5)
    device.close()


def test_close_answers_what_waits_for_more() -> None:
    device = device_thread("compute=1ms", more_coming=lambda: True)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(device.classify, images(70, 0))
        while not device._asked:
            time.sleep(0.001)
        device.close()
        assert sum(len(part.classes) for part in call.result(timeout=10)) == 70


def test_no_images_is_no_batches() -> None:
    device = device_thread("compute=1ms")
    assert device.classify(images(0, 0)) == []
    device.close()


def test_a_single_call_is_answered_without_another_to_push_it() -> None:
    device = device_thread("compute=1ms")
    assert len(device.classify(images(64, 0))) == 1
    device.close()


def test_the_device_is_opened_driven_and_closed_on_one_thread() -> None:
    threads: set[int] = set()

    class Recorder(SimulatedVit):
        def __init__(self) -> None:
            threads.add(threading.get_ident())
            super().__init__(SimulatedTiming.from_spec("compute=1ms"), classes=CLASSES)

        def compile(self) -> float:
            threads.add(threading.get_ident())
            return super().compile()

        def close(self) -> None:
            threads.add(threading.get_ident())
            super().close()

    device = DeviceThread(Recorder)
    device.classify(images(64, 0))
    device.close()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_opening_failures_reach_the_caller_unchanged() -> None:
    def broken() -> SimulatedVit:
        raise DeviceError("no board answers")

    with pytest.raises(DeviceError, match=r"^no board answers$"):
        DeviceThread(broken)


def test_a_failing_device_fails_every_waiting_and_every_later_call() -> None:
    device = device_thread("compute=5ms,fail_after=3")
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(device.classify, images(512, seed)) for seed in range(3)]
        for call in calls:
            with pytest.raises(DeviceError):
                call.result(timeout=20)
    with pytest.raises(DeviceError, match="lost"):
        device.classify(images(64, 9))


def test_a_hanging_device_is_noticed_within_its_limit() -> None:
    device = device_thread("compute=5ms,hang_after=2", limit_seconds=1)
    with pytest.raises(DeviceError, match="no answer for 1 s: the device hangs"):
        device.classify(images(512, 0))


def test_it_tells_how_many_batches_wait_and_how_long_the_device_was_busy() -> None:
    device = device_thread("compute=50ms")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(device.classify, images(512, 0))
        while not device.waiting:
            time.sleep(0.001)
        assert device.waiting <= 8
        results = call.result(timeout=20)
    assert device.waiting == 0
    assert device.busy_seconds == pytest.approx(sum(result.seconds for result in results))
    assert device.busy_seconds >= 8 * 0.05
    device.close()


def test_close_answers_what_was_asked_first() -> None:
    device = device_thread("compute=20ms")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(device.classify, images(256, 0))
        while not device._in_flight:
            time.sleep(0.001)
        device.close()
        assert len(call.result(timeout=10)) == 4
