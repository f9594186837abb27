"""The layout of a ViT on the core grid: what must divide divides, and what does not is named."""

import pytest

from vit_actor.config import VitConfig
from vit_actor.errors import UserError
from vit_actor.geometry import TILE, geometry


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


def test_attention_is_one_op_above_eleven_tiles_of_tokens_in_base_and_patches_fill_whole_tiles() -> None:
    for side, fused in ((224, False), (288, False), (304, True), (384, True)):
        size = geometry(VitConfig.from_json({"image_size": side}), images_per_chip=8)
        assert size.fused_attention == fused == (size.tokens_t > 11)
    size = geometry(VitConfig.from_json({"patch_size": 14}), images_per_chip=8)
    assert size.pixels == 768  # 588 are 19 tiles, rounded up to 8 columns of 3


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
