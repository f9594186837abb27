"""The T3000 device as an actor drives it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from tests.mock_t3000.golden import Goldens
from tests.vit_actor.agreement import plain_preprocess, random_images, reference_logits
from vit_actor.checkpoint import load_checkpoint
from vit_actor.device import top_k
from vit_actor.errors import UserError


@pytest.fixture(scope="module")
def goldens(mock_environment: dict[str, str]) -> Iterator[Goldens]:
    with Goldens(rounding=False) as goldens:
        yield goldens


@pytest.fixture(scope="module")
def device(environ: pytest.MonkeyPatch, sample_directory: Path, goldens: Goldens, one_thread: None) -> Iterator[Any]:
    """The bundled model on a mock T3000, with true float32 numbers."""
    from vit_actor.t3000 import T3000Vit

    device = T3000Vit(load_checkpoint(str(sample_directory / "model")))
    device.compile()
    yield device
    device.close()


@pytest.fixture(scope="module")
def model(sample_directory: Path) -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(sample_directory / "model").eval()


def assert_answers(result: Any, images: np.ndarray, model: ViTForImageClassification) -> None:
    classes, probabilities = top_k(reference_logits(model, images, plain_preprocess(64)).numpy())
    assert result.classes.tolist() == classes.tolist()
    np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-5)


def test_it_holds_eight_chips_of_eight_images(device: Any) -> None:
    assert device.batch_size == 64
    assert device.description.startswith("simulated")
    assert "T3000, mesh 1x8" in device.description
    assert "ttnn 0.81" in device.description


def test_its_start_is_told_by_phase_and_whether_it_found_its_kernels(device: Any) -> None:
    assert set(device.start) == {"import", "open", "weights", "programs", "trace", "kernels_built"}
    assert all(value >= 0 for value in device.start.values())
    assert device.start["kernels_built"] == int(device.start["kernels_built"])
    assert sum(device.start[phase] for phase in ("weights", "programs", "trace")) <= device.compile()


def test_compiling_again_returns_the_first_time(device: Any) -> None:
    assert device.compile() == device.compile() > 0


def test_twelve_batches_with_a_short_last_one_are_answered_in_order(device: Any, model: ViTForImageClassification) -> None:
    batches = [random_images(64, 64, seed) for seed in range(11)] + [random_images(5, 64, 11)]
    results = list(device.classify(batches))
    assert [len(result.classes) for result in results] == [64] * 11 + [5]
    for result, images in zip(results, batches, strict=True):
        assert_answers(result, images, model)


def test_two_batches_are_in_flight_when_the_third_is_asked_for(device: Any) -> None:
    asked: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        for index in range(6):
            asked.append(index)
            yield random_images(64, 64, index)

    answered_when_asked = [len(asked) for _ in device.classify(batches())]
    assert answered_when_asked == [3, 4, 5, 6, 6, 6]


def test_the_callers_array_may_be_reused_and_may_be_read_only(device: Any, model: ViTForImageClassification) -> None:
    images = [random_images(64, 64, seed) for seed in range(4)]
    shared = images[0].copy()

    def batches() -> Iterator[np.ndarray]:
        for batch in images:
            shared[:] = batch
            view = shared[:]
            view.flags.writeable = False
            yield view

    for result, batch in zip(device.classify(batches()), images, strict=True):
        assert_answers(result, batch, model)


def test_with_nothing_to_do_the_oldest_batch_is_answered(device: Any, model: ViTForImageClassification) -> None:
    images = [random_images(64, 64, seed) for seed in range(2)]
    asked: list[int] = []

    def batches() -> Iterator[np.ndarray | None]:
        for index, batch in enumerate([None, images[0], images[1], None, None, None]):
            asked.append(index)
            yield batch

    results = device.classify(batches())
    assert_answers(next(results), images[0], model)
    assert asked[-1] == 3
    assert_answers(next(results), images[1], model)
    assert asked[-1] == 4
    assert list(results) == []


def test_batches_abandoned_in_flight_are_waited_for_and_leave_no_trace_in_the_next(
    device: Any, goldens: Goldens, model: ViTForImageClassification
) -> None:
    abandoned = device.classify(random_images(64, 64, seed) for seed in range(9))
    next(abandoned)
    abandoned.close()
    assert not any(goldens.queues.pending), "a read-back was under way when its host memory was given up"
    images = random_images(64, 64, 42)
    (result,) = device.classify([images])
    assert_answers(result, images, model)


def test_memory_taken_after_the_capture_is_none_that_the_trace_reads(device: Any, model: ViTForImageClassification) -> None:
    import ttnn

    device.compile()
    taken = [
        ttnn.from_torch(torch.full((1, 1, rows, 64), 1e3), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device._mesh)
        for rows in (32, 64, 96, 192, 256, 1024) * 8
    ]
    images = random_images(64, 64, 7)
    (result,) = device.classify([images])
    assert_answers(result, images, model)
    assert len(taken) == 48


def test_seconds_add_up_to_the_time_the_device_was_busy(device: Any) -> None:
    import time

    started = time.monotonic()
    results = list(device.classify(random_images(64, 64, seed) for seed in range(4)))
    elapsed = time.monotonic() - started
    assert all(result.seconds > 0 for result in results)
    assert sum(result.seconds for result in results) <= elapsed


@pytest.mark.parametrize("images", [np.zeros((0, 64, 64, 3), np.uint8), np.zeros((65, 64, 64, 3), np.uint8)])
def test_a_batch_the_contract_excludes_is_refused(device: Any, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a batch must be uint8 \\(1 to 64"):
        list(device.classify([images]))


def test_a_model_off_the_grid_is_refused_before_the_chips_are_touched(tmp_path: Path, sample_directory: Path) -> None:
    from transformers import ViTConfig

    from vit_actor.t3000 import T3000Vit

    ViTForImageClassification(
        ViTConfig(hidden_size=48, num_attention_heads=2, intermediate_size=96, num_hidden_layers=1, image_size=64, patch_size=8)
    ).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((sample_directory / "model" / "preprocessor_config.json").read_text())
    with pytest.raises(UserError, match="hidden size 48 does not divide into tiles of 32"):
        T3000Vit(load_checkpoint(str(tmp_path)))
