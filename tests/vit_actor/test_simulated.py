"""The simulated T3000: its timeline, its answers, and how it breaks."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.vit_actor.contract import check_device
from vit_actor.config import VitConfig
from vit_actor.errors import DeviceError, UserError
from vit_actor.geometry import geometry
from vit_actor.simulated import SimulatedTiming, SimulatedVit, expected_class

BATCH = 4
NO_TIME = "compute=1us,upload=0us,readback=0us,compile=0s"


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def device(spec: str, **options: int) -> SimulatedVit:
    return SimulatedVit(SimulatedTiming.from_spec(spec), **{"batch_size": BATCH, **options})


class LateClock:
    """Stands for the time module: time passes only while sleeping, and every sleep wakes up 1 ms late."""

    now = 100.0
    slept = 0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_000_000.0 + self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept += 1
        self.now += seconds + 0.001


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> LateClock:
    monkeypatch.setattr("vit_actor.simulated.time", clock := LateClock())
    return clock


def test_engines_overlap_so_that_a_long_run_takes_one_compute_per_batch(clock: LateClock) -> None:
    simulated = device("compute=10ms,upload=5ms,readback=5ms")
    simulated.compile()
    begin = clock.now
    results = list(simulated.classify(images(BATCH) for _ in range(100)))
    # Fill and drain cost one upload and one read-back; 1 ms of lateness per wake-up must not be added 100 times.
    assert clock.now - begin == pytest.approx(0.005 + 100 * 0.010 + 0.005, abs=0.0011)
    assert [result.seconds for result in results] == pytest.approx([0.020] + [0.010] * 99)
    assert clock.slept <= 101  # it waits for deadlines, it does not poll
    for times in ("upload=12ms,compute=4ms,readback=4ms", "upload=4ms,compute=4ms,readback=12ms"):  # the slowest sets the pace
        results = list(device(times).classify(images(BATCH) for _ in range(50)))
        assert [result.seconds for result in results[1:]] == pytest.approx([0.012] * 49)


def test_a_batch_that_waited_for_nobody_is_charged_its_own_way_through_and_not_the_idle_time(clock: LateClock) -> None:
    def with_a_pause() -> Iterator[np.ndarray | None]:
        yield images(BATCH)
        yield None
        clock.now += 5.0
        yield images(BATCH)

    first, second = device("compute=10ms,upload=5ms,readback=5ms").classify(with_a_pause())
    assert (first.seconds, second.seconds) == pytest.approx((0.020, 0.020))
    assert second.started_at - first.started_at == pytest.approx(5.021)
    assert first.started_at > 1_000_000  # Unix time, not the monotonic clock


def test_it_is_a_device() -> None:
    check_device(device(NO_TIME), images)


@pytest.mark.parametrize("classes", [3, 1000])
def test_every_image_is_answered_in_order_with_classes_computed_from_its_own_pixels(classes: int) -> None:
    batches = [images(n, seed) for seed, n in enumerate([4, 1, 3, 4, 2, 4, 4])]
    results = list(device(NO_TIME, classes=classes).classify(iter(batches)))
    for batch, result in zip(batches, results, strict=True):
        first, best = expected_class(batch, classes).tolist(), min(classes, 5)
        assert result.classes.tolist() == [[(each + k) % classes for k in range(best)] for each in first]
        assert result.probabilities[0].tolist() == [0.5**k for k in range(1, best + 1)]


def test_it_fails_after_the_stated_number_of_answers_or_when_it_is_closed() -> None:
    simulated = device(NO_TIME + ",fail_after=3")
    answers = simulated.classify(images(1) for _ in range(10))
    assert len([next(answers) for _ in range(3)]) == 3
    with pytest.raises(DeviceError, match="after 3 batches"):
        next(answers)
    simulated.close()
    with pytest.raises(DeviceError, match="closed"):
        list(simulated.classify([images(1)]))


def test_jitter_varies_times_within_its_bounds_and_is_repeated_by_its_seed(clock: LateClock) -> None:
    def seconds(seed: int) -> list[float]:
        spec = f"compute=10ms,upload=0ms,readback=0ms,jitter=0.2,seed={seed}"
        return [result.seconds for result in device(spec).classify(images(1) for _ in range(50))]

    first = seconds(1)
    assert all(0.008 <= each <= 0.012 for each in first)
    assert max(first) - min(first) > 0.002
    assert seconds(1) == pytest.approx(first)
    assert seconds(2) != pytest.approx(first)


def test_a_spec_sets_every_field_and_the_default_is_the_published_rate_and_what_64_images_of_base_are_to_upload() -> None:
    spec = "compute=10ms, upload=5ms,readback=500us,compile=1.5s,jitter=0.1,seed=7,fail_after=100,hang_after=0"
    expected = SimulatedTiming(0.010, 0.005, 0.0005, 1.5, 0.1, 7, 100, 0, wrong_chip=3, wrong_after=20)
    assert SimulatedTiming.from_spec(f"{spec},wrong_chip=3,wrong_after=20") == expected
    default, size = SimulatedTiming.from_spec(""), geometry(VitConfig(), images_per_chip=8)
    assert 64 / default.compute == pytest.approx(8 * 1323)
    assert default.upload * 10e9 == pytest.approx(8 * size.images * size.padded_tokens * size.pixels)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("compute=10", "compute=10 is not a duration"),
        ("compute=0ms", "compute must be above 0"),
        ("upload=-5ms", "upload=-5ms is not a duration"),
        ("compute", "compute= is not a duration"),
        ("speed=10ms", "'speed=10ms' is not understood"),
        ("compute=1ms,compute=2ms", "compute is given twice"),
        ("jitter=1", "jitter=1 is not a number from 0 to below 1"),
        ("jitter=nan", "jitter=nan is not a number from 0"),
        ("jitter=lots", "jitter=lots is not a number from 0"),
        ("fail_after=1.5", "fail_after=1.5 is not a whole number"),
        ("hang_after=-1", "hang_after=-1 is not a whole number"),
    ],
)
def test_a_bad_spec_is_one_line_that_names_the_part(spec: str, says: str) -> None:
    with pytest.raises(UserError, match=f"^simulated device: {says}.*$"):
        SimulatedTiming.from_spec(spec)
