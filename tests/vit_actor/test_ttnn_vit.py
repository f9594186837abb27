"""The graph on a mock 1x8 mesh computes what transformers computes, at the shapes the chips pad to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from tests.vit_actor.agreement import centred_pcc, digits, mock_logits, plain_preprocess, random_images, reference_logits

Precision = Literal["fast", "accurate"]

Build = Callable[..., ViTForImageClassification]
SAMPLE = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256, "num_labels": 10}
SAMPLE |= {"image_size": 64, "patch_size": 8}  # The sizes of the bundled model


@pytest.fixture(scope="module")
def base(random_vit: Build) -> ViTForImageClassification:
    return random_vit(num_labels=1000)


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    return random_images(8, 224)


@pytest.fixture(scope="module")
def expected(base: ViTForImageClassification, photographs: np.ndarray) -> torch.Tensor:
    return reference_logits(base, photographs, plain_preprocess(224))


@pytest.mark.slow
def test_base_equals_transformers(
    base: ViTForImageClassification, photographs: np.ndarray, expected: torch.Tensor, mesh: Any
) -> None:
    logits, goldens = mock_logits(base, photographs, mesh, rounding=False)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert centred_pcc(logits, expected) > 0.9999
    assert goldens.ops.total() + 1 == 180  # the answer's way to DRAM ends the trace


@pytest.mark.slow
def test_twelve_layers_of_base_survive_the_rounding_of_every_stored_tensor(
    base: ViTForImageClassification, photographs: np.ndarray, expected: torch.Tensor, mesh: Any
) -> None:
    two, of_two = photographs[:2], expected[:2]  # rounding eight takes three times as long
    accurate, _ = mock_logits(base, two, mesh, rounding=True, precision="accurate", images_per_chip=2)
    fast, goldens = mock_logits(base, two, mesh, rounding=True, precision="fast", images_per_chip=2)
    assert goldens.ops.total() + 1 == 168  # the answer's way to DRAM ends the trace
    assert centred_pcc(accurate, of_two) >= 0.9985  # measured 0.9990
    assert centred_pcc(fast, of_two) >= 0.9975  # measured 0.9982


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
    images, labels = digits()
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


@pytest.mark.parametrize("precision", ["fast", "accurate"])
def test_a_long_sequence_is_attended_in_one_op(random_vit: Build, precision: Precision, mesh: Any, one_thread: None) -> None:
    model = random_vit(image_size=384, num_hidden_layers=1, num_labels=1000)  # google/vit-base-patch16-384's geometry
    images = random_images(2, 384)
    logits, goldens = mock_logits(model, images, mesh, rounding=False, precision=precision)
    expected = reference_logits(model, images, plain_preprocess(384))
    assert goldens.ops["ttnn.transformer.scaled_dot_product_attention"] == 1
    torch.testing.assert_close(logits, expected, atol=1e-4 if precision == "accurate" else 0.1, rtol=0)  # fast rounds weights
    assert centred_pcc(logits, expected) > 0.998


@pytest.mark.parametrize("images_per_chip", [1, 5, 10, 16])
def test_any_number_of_images_on_a_chip_is_fine(random_vit: Build, images_per_chip: int, mesh: Any, one_thread: None) -> None:
    model, images = random_vit(num_hidden_layers=1, **SAMPLE), random_images(images_per_chip, 64)
    logits, _ = mock_logits(model, images, mesh, rounding=False, images_per_chip=images_per_chip)
    torch.testing.assert_close(logits, reference_logits(model, images, plain_preprocess(64)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "sizes",
    [{"image_size": 448}, {"image_size": 384, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}],
    ids=["base at 448", "large at 384"],
)
def test_a_model_that_does_not_fit_the_cores_is_told_in_a_line(random_vit: Build, sizes: dict[str, int], mesh: Any) -> None:
    from vit_actor.t3000 import explanation

    model = random_vit(num_hidden_layers=1, **sizes)
    with pytest.raises(RuntimeError) as raised:
        mock_logits(model, random_images(1, sizes["image_size"]), mesh, rounding=False)
    assert explanation(str(raised.value)).startswith("the model does not fit the cores' memory at this batch; use fewer images")
