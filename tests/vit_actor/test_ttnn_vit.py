"""The graph on a mock 1x8 mesh computes what transformers computes, at the shapes the chips pad to."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from tests.vit_actor.agreement import (
    SAMPLE,
    assert_digits_as_expected,
    centred_pcc,
    digits,
    mock_logits,
    plain_preprocess,
    random_images,
    random_vit,
    reference_logits,
)

Precision = Literal["fast", "accurate"]

BUNDLED = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256, "num_labels": 10}
BUNDLED |= {"image_size": 64, "patch_size": 8}  # The sizes of the bundled model
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}


@pytest.mark.slow
def test_base_equals_transformers_and_survives_the_rounding_of_every_stored_tensor(mesh: Any) -> None:
    base, images = random_vit(num_labels=1000), random_images(8, 224)
    expected = reference_logits(base, images, plain_preprocess(224))
    logits, goldens = mock_logits(base, images, mesh, rounding=False)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert centred_pcc(logits, expected) > 0.9999
    assert goldens.ops.total() + 1 == 180  # the answer's way to DRAM ends the trace
    measured: tuple[tuple[Precision, int, float], ...] = ("accurate", 180, 0.9990), ("fast", 168, 0.9982)
    for precision, ops, found in measured:  # of two images: rounding eight takes three times as long
        logits, goldens = mock_logits(base, images[:2], mesh, rounding=True, precision=precision, images_per_chip=2)
        assert goldens.ops.total() + 1 == ops
        assert centred_pcc(logits, expected[:2]) >= found - 0.0006


@pytest.mark.parametrize(
    ("sizes", "shown", "images_per_chip", "precision"),
    [
        pytest.param(SMALL, 3, 8, "accurate", id="small"),
        pytest.param(LARGE, 3, 8, "accurate", id="large"),
        pytest.param(
            {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 128, "patch_size": 14},
            *(3, 8, "accurate"),
            id="patches of 14",
            marks=pytest.mark.slow,
        ),
        *(pytest.param({"image_size": 384, "num_labels": 1000}, 2, 8, each, id=f"384, {each}") for each in ("fast", "accurate")),
        *(pytest.param(BUNDLED, images, images, "accurate", id=f"{images} on a chip") for images in (1, 5, 10, 16)),
    ],
)
def test_other_sizes_equal_transformers_on_their_own_grids(
    sizes: dict[str, int], shown: int, images_per_chip: int, precision: Precision, mesh: Any, one_thread: None
) -> None:
    model = random_vit(num_hidden_layers=1, **sizes)
    images = random_images(shown, side := model.config.image_size)
    logits, goldens = mock_logits(model, images, mesh, rounding=False, precision=precision, images_per_chip=images_per_chip)
    expected = reference_logits(model, images, plain_preprocess(side))
    torch.testing.assert_close(logits, expected, atol=1e-4 if precision == "accurate" else 0.1, rtol=0)  # fast rounds weights
    assert precision == "accurate" or centred_pcc(logits, expected) > 0.998
    one_op = side == 384 or images_per_chip > 8
    assert goldens.ops["ttnn.transformer.scaled_dot_product_attention"] == one_op


def test_whatever_lies_in_the_padding_the_answer_is_the_same(mesh: Any, one_thread: None) -> None:
    model = random_vit(num_hidden_layers=3, **BUNDLED)
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


def test_the_bundled_model_answers_as_transformers_does(mesh: Any, one_thread: None) -> None:
    model = ViTForImageClassification.from_pretrained(SAMPLE / "model").eval()
    images, labels = digits()
    expected = reference_logits(model, images, plain_preprocess(64))
    logits, _ = mock_logits(model, images, mesh, rounding=True)
    assert_digits_as_expected(logits.argmax(1), expected, labels)
    assert centred_pcc(logits, expected) >= 0.995


@pytest.mark.parametrize("sizes", [{"image_size": 448}, {"image_size": 384, **LARGE}], ids=["base at 448", "large at 384"])
def test_a_model_that_does_not_fit_the_cores_is_told_in_a_line(sizes: dict[str, int], mesh: Any) -> None:
    from vit_actor.t3000 import explanation

    model = random_vit(num_hidden_layers=1, **sizes)
    with pytest.raises(RuntimeError) as raised:
        mock_logits(model, random_images(1, sizes["image_size"]), mesh, rounding=False)
    assert explanation(str(raised.value)).startswith("the model does not fit the cores' memory at this batch; use fewer images")
