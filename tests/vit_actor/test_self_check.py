"""Every chip proves itself: what is wrong with one is found at the next check and named, and nothing else is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.vit_actor.chip_faults import campaign
from vit_actor.checkpoint import load_checkpoint
from vit_actor.device import BatchResult
from vit_actor.reference import kept_reference
from vit_actor.self_check import ROUNDS, CheckFailed, SelfCheck, known_images
from vit_actor.simulated import SimulatedTiming, SimulatedVit

QUICK = "compute=1us,upload=0us,readback=0us,compile=0s"


def check_of(batch_size: int = 64) -> tuple[SelfCheck, np.ndarray]:
    """A simulated T3000's check, and right scores float32 (ROUNDS, chips, images, classes)."""
    device = SimulatedVit(SimulatedTiming.from_spec(QUICK), batch_size=batch_size)
    check = SelfCheck(device)
    return check, device.reference(np.concatenate(check.batches)).reshape(ROUNDS, len(device.chips), -1, 5)


def answered(scores: np.ndarray) -> list[BatchResult]:
    return [BatchResult(each[0, :, :1], each[0, :, :1], 0.0, 0.0, scores=each.reshape(-1, 5)) for each in scores]


def judged(check: SelfCheck, scores: np.ndarray) -> str:
    with pytest.raises(CheckFailed) as failed:
        check.judge(answered(scores))
    return str(failed.value)


@pytest.mark.parametrize("images", [1, 2, 3, 6, 8, 16])
def test_each_place_on_a_chip_gets_another_image_in_each_batch(images: int) -> None:
    by_place = np.stack(check_of(8 * images)[0].batches).reshape(ROUNDS, 8, images, -1)
    assert (by_place == by_place[:, :1]).all()
    for place in range(images):
        assert len({image.tobytes() for image in by_place[:, 0, place]}) == ROUNDS


@pytest.mark.parametrize("first", [True, False], ids=["at first", "later"])
def test_what_differs_is_told_by_board_and_chip(first: bool) -> None:
    check, scores = check_of()
    if not first:
        check.judge(answered(scores))
    scores[1, 5, 3, 2] += 0.5
    scores[3, 6, 0] = np.nan
    told = judged(check, scores)
    assert told == (
        "self-check failed: board 2 chip 5: 1 of 160 scores differ, by up to 0.5; "
        "board 3 chip 6: 5 of 160 scores differ, by up to nan"
    )


def test_chips_that_all_answer_wrongly_alike_are_told_by_the_cpus_answers_and_later_by_their_own() -> None:
    check, scores = check_of()
    assert "chip 0, board 0 chip 1," in (told := judged(check, scores[:, :, ::-1]))
    assert told.endswith("of their spread away from the CPU's, 0 allowed")
    check.judge(answered(scores))
    assert judged(check, scores + 1e-3).count("160 of 160 scores differ") == 8


def test_of_two_chips_that_disagree_the_one_nearer_to_the_cpu_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TT_VISIBLE_DEVICES", "3")
    check, scores = check_of(16)
    scores[:, 0, 0] += 1
    assert judged(check, scores).startswith("self-check failed: board 3 chip 6: 20 of 160 scores differ")


@pytest.mark.parametrize(("faults", "clean"), [(24, 20), pytest.param(500, 3_000, marks=pytest.mark.slow)])
def test_every_random_fault_of_a_mock_chip_that_changes_scores_is_found_at_the_next_check(
    environ: pytest.MonkeyPatch, one_thread: None, tmp_path: Path, faults: int, clean: int
) -> None:
    environ.setenv("TT_METAL_CACHE", str(tmp_path))
    told = campaign(tmp_path / "model", faults, clean, seed=0)
    assert set(told) == {"flipped", "scaled", "swapped"}


def test_kept_answers_are_computed_again_only_where_they_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    def reference(*_: object) -> Callable[[np.ndarray], np.ndarray]:
        computed.append(True)
        return lambda images: np.full((len(images), 5), 0.5, np.float32)

    monkeypatch.setattr("vit_actor.reference.reference_vit", reference)  # which takes seconds
    monkeypatch.setenv("TT_METAL_CACHE", str(tmp_path))
    checkpoint = load_checkpoint("jobs/sample/model")
    images = known_images(2, (8, 8, 3))
    right = kept_reference(checkpoint, images).tobytes()
    [file] = (tmp_path / "loudbox-vit").iterdir()
    sound = file.read_bytes()
    for kept, times in ((sound, 1), (b"", 2), (sound[:-30], 3), (sound.replace(right, bytes(len(right))), 4), (b"PK", 5)):
        file.write_bytes(kept)
        assert kept_reference(checkpoint, images).tobytes() == right
        assert len(computed) == times
