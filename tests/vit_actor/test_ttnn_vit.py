"""The graph on a mock 1x8 mesh computes what transformers computes, at the shapes the chips pad to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTForImageClassification

from tests.vit_actor.agreement import centred_pcc, mock_logits, plain_preprocess, random_images, reference_logits

Build = Callable[..., ViTForImageClassification]
SAMPLE = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "image_size": 64,
    "patch_size": 8,
    "num_labels": 10,
}
"""The sizes of the bundled model."""


@pytest.fixture(scope="module")
def base(random_vit: Build) -> ViTForImageClassification:
    return random_vit(num_labels=1000)


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    return random_images(8, 224)


@pytest.fixture(scope="module")
def expected(base: ViTForImageClassification, photographs: np.ndarray) -> torch.Tensor:
    return reference_logits(base, photographs, plain_preprocess(224))


def test_twelve_layers_of_base_equal_transformers_in_float32(
    base: ViTForImageClassification, photographs: np.ndarray, expected: torch.Tensor, mesh: Any
) -> None:
    logits, _ = mock_logits(base, photographs, mesh, rounding=False)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert centred_pcc(logits, expected) > 0.9999


def test_twelve_layers_of_base_survive_the_rounding_of_every_stored_tensor(
    base: ViTForImageClassification, photographs: np.ndarray, expected: torch.Tensor, mesh: Any
) -> None:
    logits, _ = mock_logits(base, photographs, mesh, rounding=True)
    assert centred_pcc(logits, expected) >= 0.998  # measured 0.9988


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 1},
        {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "num_hidden_layers": 1},
        pytest.param(
            {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 128, "num_hidden_layers": 1, "patch_size": 14},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["small", "large", "patches of 14"],
)
def test_other_sizes_equal_transformers_on_their_own_grids(random_vit: Build, sizes: dict[str, int], mesh: Any) -> None:
    model = random_vit(**sizes)
    side = model.config.image_size
    images = random_images(3, side)
    logits, _ = mock_logits(model, images, mesh, rounding=False)
    torch.testing.assert_close(logits, reference_logits(model, images, plain_preprocess(side)), atol=1e-4, rtol=0)


def test_whatever_lies_in_the_padding_the_answer_is_the_same(random_vit: Build, mesh: Any, one_thread: None) -> None:
    model = random_vit(num_hidden_layers=3, **SAMPLE)
    images = random_images(8, 64)
    tokens = 8 * 8 + 1

    def litter(weights: Any, staging: Any) -> Any:
        staging.rows[:, tokens:] = np.random.default_rng(0).integers(0, 256, (64, 96 - tokens, 192))
        garbage = weights.tokens.clone()
        garbage[tokens:] = 100 * torch.randn(96 - tokens, 64)
        return replace(weights, tokens=garbage)

    clean, _ = mock_logits(model, images, mesh, rounding=False)
    littered, _ = mock_logits(model, images, mesh, rounding=False, change=litter)
    torch.testing.assert_close(littered, clean, atol=1e-6, rtol=0)


def test_the_bundled_model_answers_as_transformers_does(sample_directory: Path, mesh: Any, one_thread: None) -> None:
    model = ViTForImageClassification.from_pretrained(sample_directory / "model").eval()
    images, labels = _digits(sample_directory / "images")
    expected = reference_logits(model, images, plain_preprocess(64))
    logits, _ = mock_logits(model, images, mesh, rounding=True)
    first, second = torch.softmax(expected, 1).topk(2).values.T
    clear = first - second > 0.1
    agree = logits.argmax(1) == expected.argmax(1)
    accuracy, reference_accuracy = ((part.argmax(1) == labels).double().mean() for part in (logits, expected))
    assert clear.double().mean() > 0.9
    assert agree[clear].all()
    assert abs(accuracy - reference_accuracy) <= 0.005
    assert centred_pcc(logits, expected) >= 0.995


def test_the_trace_is_shorter_than_one_that_scales_and_masks_apart(random_vit: Build, mesh: Any) -> None:
    model = random_vit(num_hidden_layers=2, **SAMPLE)
    _, goldens = mock_logits(model, random_images(1, 64), mesh, rounding=False)
    assert goldens.ops["ttnn.scale_mask_softmax_in_place"] == 2
    assert goldens.ops.keys().isdisjoint({"ttnn.mul_", "ttnn.multiply", "ttnn.softmax_in_place", "ttnn.concat", "ttnn.fold"})
    per_layer, outside = 15, 10
    assert sum(goldens.ops.values()) == 2 * per_layer + outside, Counter(goldens.ops)


def _digits(directory: Path) -> tuple[np.ndarray, torch.Tensor]:
    files = sorted(directory.glob("*/*.jpeg"))
    images = [np.asarray(Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)) for file in files]
    return np.stack(images), torch.tensor([int(file.parent.name) for file in files])
