"""What each precision of the boards costs where many answers are close: agreement, changed answers, accuracy."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from transformers import ViTForImageClassification

from tests.vit_actor.agreement import centred_pcc, mock_logits, plain_preprocess, reference_logits
from tests.vit_actor.glyphs import MODEL, SIDE, batches

pytestmark = pytest.mark.slow

IMAGES = 1024


@pytest.fixture(scope="module")
def glyphs() -> Iterator[tuple[Any, torch.Tensor, torch.Tensor, ViTForImageClassification]]:
    """Fresh images, their labels, transformers' logits and the model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = ViTForImageClassification.from_pretrained(MODEL).float().eval()
    images, labels = next(batches(IMAGES, seed=99))
    yield images, labels, reference_logits(model, images, plain_preprocess(SIDE)), model
    torch.set_num_threads(threads)


def test_the_model_has_close_calls_and_is_no_guesser(glyphs: Any) -> None:
    _, labels, expected, _ = glyphs
    first, second = torch.softmax(expected, 1).topk(2).values.T
    assert 0.85 <= (expected.argmax(1) == labels).double().mean() <= 0.95
    assert (first - second < 0.1).double().mean() > 0.02


@pytest.mark.parametrize(("precision", "agreement"), [("accurate", 0.9997), ("fast", 0.9995)])
def test_only_close_calls_change(glyphs: Any, mesh: Any, precision: Literal["fast", "accurate"], agreement: float) -> None:
    images, labels, expected, model = glyphs
    logits, _ = mock_logits(model, images, mesh, rounding=True, precision=precision)
    first, second = torch.softmax(expected, 1).topk(2).values.T
    changed = logits.argmax(1) != expected.argmax(1)
    assert centred_pcc(logits, expected) >= agreement
    assert (first - second)[changed].max() < 0.25
    accuracy, reference = ((part.argmax(1) == labels).double().mean() for part in (logits, expected))
    assert abs(accuracy - reference) <= 0.005
