"""The T3000 device as an actor drives it."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from tests.mock_t3000.golden import Goldens
from tests.vit_actor.agreement import SAMPLE, plain_preprocess, random_images, reference_logits
from tests.vit_actor.contract import check_device
from vit_actor.checkpoint import load_checkpoint
from vit_actor.device import top_k
from vit_actor.errors import DeviceError


@pytest.fixture(scope="module")
def goldens(mock_environment: dict[str, str]) -> Iterator[Goldens]:
    with Goldens(rounding=False) as goldens:
        yield goldens


@pytest.fixture(scope="module")
def device(environ: pytest.MonkeyPatch, goldens: Goldens, one_thread: None) -> Iterator[Any]:
    """The bundled model on a mock T3000, with true float32 numbers."""
    from vit_actor.t3000 import T3000Vit

    device, began = T3000Vit(load_checkpoint(str(SAMPLE / "model")), held=(2, 7)), time.monotonic()
    assert 0 < device.compile() <= time.monotonic() - began
    yield device
    device.close()


@pytest.fixture(scope="module")
def model() -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(SAMPLE / "model").eval()


def assert_answers(result: Any, images: np.ndarray, model: ViTForImageClassification) -> None:
    logits = reference_logits(model, images, plain_preprocess(64)).numpy()
    classes, probabilities = top_k(logits)
    assert result.classes.tolist() == classes.tolist()
    np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-5)
    assert result.held.tolist() == [2 if row[2] >= row[7] else 7 for row in logits]


def test_it_is_a_device(device: Any) -> None:
    check_device(device, lambda count, seed: random_images(count, 64, seed))


def test_it_says_what_it_is_and_how_its_start_went(device: Any) -> None:
    assert device.batch_size == 64
    assert device.description.startswith("simulated by ttnn's mock")
    for part in ("T3000, mesh 1x8", "ttnn 0.81", "accurate: bfloat8_b at HiFi2"):
        assert part in device.description
    assert set(device.start) == {"import", "open", "weights", "programs", "trace", "kernels_built"}
    assert all(value >= 0 for value in device.start.values())
    assert device.start["kernels_built"] == int(device.start["kernels_built"])
    assert sum(device.start[phase] for phase in ("weights", "programs", "trace")) <= device.compile()


def test_batches_with_a_short_last_one_are_answered_as_transformers_does(device: Any, model: ViTForImageClassification) -> None:
    batches = [random_images(64, 64, seed) for seed in range(4)] + [random_images(5, 64, 4)]
    results = list(device.classify(batches))
    assert [len(result.classes) for result in results] == [64] * 4 + [5]
    for result, images in zip(results, batches, strict=True):
        assert_answers(result, images, model)


def test_batches_abandoned_in_flight_are_waited_for(device: Any, goldens: Goldens) -> None:
    abandoned = device.classify(random_images(64, 64, seed) for seed in range(9))
    next(abandoned)
    abandoned.close()
    assert not any(goldens.queues.pending), "a read-back was under way when its host memory was given up"


def test_memory_taken_after_the_capture_is_none_that_the_trace_reads(device: Any, model: ViTForImageClassification) -> None:
    import ttnn

    taken = [
        ttnn.from_torch(torch.full((1, 1, rows, 64), 1e3), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device._mesh)
        for rows in (32, 64, 96, 192, 256, 1024) * 8
    ]
    images = random_images(64, 64, 7)
    (result,) = device.classify([images])
    assert_answers(result, images, model)
    assert len(taken) == 48


def test_a_chip_that_fails_is_told_in_one_line(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ttnn

    def fail(*_: Any) -> None:
        raise RuntimeError("TT_THROW @ /a/b.cpp:1\ninfo:\ndevice timeout in fetch queue wait\nbacktrace:\n --- a")

    with monkeypatch.context() as patch:
        patch.setattr(ttnn, "event_synchronize", fail)
        with pytest.raises(DeviceError, match=r"^a chip stopped answering; reset it with tt-smi -r$"):
            list(device.classify([random_images(64, 64)]))
