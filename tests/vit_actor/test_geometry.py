"""A ViT's sizes on the grid, and what does not fit it."""

from __future__ import annotations

import pytest

from vit_actor.config import VitConfig
from vit_actor.errors import UserError
from vit_actor.geometry import geometry


def test_base_uses_the_whole_grid_for_features_and_six_columns_for_twelve_heads() -> None:
    size = geometry(VitConfig.from_json({"num_labels": 1000}), images_per_chip=8)
    assert (size.images, size.columns, size.attention_columns) == (8, 8, 6)
    assert (size.tokens, size.padded_tokens) == (197, 224)
    assert (size.hidden_t, size.pixels_t, size.mlp_t, size.head_t) == (24, 24, 96, 2)
    assert size.padded_classes == 1024


@pytest.mark.parametrize(
    ("sizes", "columns", "attention_columns"),
    [
        ({"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}, 6, 6),
        ({"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}, 8, 8),
        ({"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256, "image_size": 64, "patch_size": 8}, 2, 2),
    ],
    ids=["small", "large", "sample"],
)
def test_every_width_divides_over_the_columns_it_is_given(sizes: dict[str, int], columns: int, attention_columns: int) -> None:
    size = geometry(VitConfig.from_json(sizes), images_per_chip=8)
    assert (size.columns, size.attention_columns) == (columns, attention_columns)
    for tiles in (size.hidden_t, 3 * size.hidden_t, size.mlp_t, size.pixels_t):
        assert tiles % size.columns == 0
    assert 3 * size.hidden_t % size.attention_columns == 0
    assert size.heads % size.attention_columns == 0


def test_a_patch_that_fills_no_whole_tiles_is_padded() -> None:
    size = geometry(VitConfig.from_json({"patch_size": 14}), images_per_chip=8)
    assert 3 * 14 * 14 == 588
    assert size.pixels == 768  # 19 tiles, rounded up to 8 columns of 3


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"hidden_size": 192, "num_attention_heads": 4}, "4 heads of 48 do not divide into tiles of 32"),
        ({"hidden_size": 200, "num_attention_heads": 2}, "hidden size 200 does not divide into tiles of 32"),
        ({"intermediate_size": 3000}, "MLP size 3000 does not divide into tiles of 32"),
        ({"image_size": 225}, "image size 225 does not divide into patches of 16"),
        ({"image_size": (224, 160)}, "images of 224x160"),
        ({"num_channels": 1}, "1 input channels"),
    ],
)
def test_a_model_off_the_grid_is_refused_with_the_size_that_fails(sizes: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        geometry(VitConfig.from_json(sizes), images_per_chip=8)


@pytest.mark.parametrize("images", [0, 9])
def test_more_images_than_rows_of_cores_are_refused(images: int) -> None:
    with pytest.raises(UserError, match=f"images per chip must be 1 to 8.* got {images}"):
        geometry(VitConfig(), images_per_chip=images)
