"""The layout of a ViT on the core grid: what must divide divides, and what does not is named."""

from __future__ import annotations

import pytest

from vit_actor.config import VitConfig
from vit_actor.errors import UserError
from vit_actor.geometry import TILE, geometry


def test_every_size_of_base() -> None:
    size = geometry(VitConfig.from_json({"num_labels": 1000}), images_per_chip=8)
    assert (size.images, size.columns, size.attention_columns, size.heads) == (8, 8, 6, 12)
    assert (size.tokens, size.tokens_t, size.padded_tokens) == (197, 7, 224)
    assert (size.patch_size, size.patches, size.pixels) == (16, 14, 768)
    assert (size.features_t, size.hidden, size.head_size, size.score_rows_t) == (3, 768, 64, 14)
    assert (size.classes, size.padded_classes, size.epsilon) == (1000, 1024, 1e-12)


@pytest.mark.parametrize(
    ("sizes", "columns", "attention_columns"),
    [
        ({"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}, 6, 6),
        ({"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}, 8, 8),
        ({"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256, "image_size": 64, "patch_size": 8}, 2, 2),
        ({"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1024}, 4, 6),
    ],
    ids=["small", "large", "sample", "a narrow MLP"],
)
def test_every_width_divides_over_the_columns_it_is_given(sizes: dict[str, int], columns: int, attention_columns: int) -> None:
    size = geometry(VitConfig.from_json(sizes), images_per_chip=8)
    assert (size.columns, size.attention_columns) == (columns, attention_columns)
    for width in (size.hidden, sizes["intermediate_size"], size.pixels):
        assert width % (TILE * size.columns) == 0
    assert size.features_t * TILE * size.columns == size.hidden
    assert 3 * size.hidden % (TILE * size.attention_columns) == 0
    assert size.heads % size.attention_columns == 0


def test_a_patch_that_fills_no_whole_tiles_is_padded() -> None:
    size = geometry(VitConfig.from_json({"patch_size": 14}), images_per_chip=8)
    assert 3 * 14 * 14 == 588
    assert size.pixels == 768  # 19 tiles, rounded up to 8 columns of 3


@pytest.mark.parametrize(("side", "fused"), [(224, False), (288, False), (304, True), (384, True)])
def test_attention_is_one_op_above_eleven_tiles_of_tokens_in_base(side: int, fused: bool) -> None:
    size = geometry(VitConfig.from_json({"image_size": side}), images_per_chip=8)
    assert size.fused_attention == fused == (size.tokens_t > 11)


@pytest.mark.parametrize(
    ("sizes", "images", "complaint"),
    [
        ({"hidden_size": 192, "num_attention_heads": 4}, 8, "4 heads of 48 do not divide into tiles of 32"),
        ({"hidden_size": 200, "num_attention_heads": 2}, 8, "hidden size 200 does not divide into tiles of 32"),
        ({"intermediate_size": 3000}, 8, "MLP size 3000 does not divide into tiles of 32"),
        ({"image_size": 225}, 8, "image size 225 does not divide into patches of 16"),
        ({"image_size": (224, 160)}, 8, "images of 224x160"),
        ({"patch_size": (16, 8)}, 8, "patches of 16x8"),
        *(({}, images, f"--images-per-chip {images}: it must be 1 to 8, or even up to 16") for images in (0, 9, 15, 18)),
    ],
)
def test_a_model_off_the_grid_is_refused_with_the_size_that_fails(sizes: dict[str, object], images: int, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        geometry(VitConfig.from_json(sizes), images_per_chip=images)
