"""How one ViT lies on a Wormhole chip: every size in tiles, computed once from the checkpoint's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from vit_actor.config import VitConfig
from vit_actor.errors import UserError

TILE = 32
GRID = 8
"""Rows and columns of cores that every Wormhole board has free for compute, n150 and n300 alike."""

MOST_SCORE_TILES = 256
"""Tiles of attention scores that a core holds beside the rest, 1,088 bytes each. ViT-Base at 224 has 98, at 384 722."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of the graph on one chip. A name ending in _t counts tiles of 32; the others count elements.

    Images lie along the rows of the core grid, one row each; features lie along its columns. The
    attention heads may need fewer columns than the features do (ViT-Base: 8 columns of 3 feature
    tiles, but 6 columns of 2 heads).
    """

    images: int
    """Images in a batch on one chip, which is also the rows of cores in use."""
    columns: int
    """Columns of cores that share the feature dimension."""
    attention_columns: int
    """Columns of cores that share the heads."""
    image_size: int
    patch_size: int
    patches: int
    """Patches along one side of the image."""
    tokens: int
    """Class token and patches."""
    tokens_t: int
    pixels_t: int
    """Width of one flattened patch, padded so that it divides over the columns."""
    hidden_t: int
    heads: int
    head_t: int
    mlp_t: int
    classes: int
    classes_t: int
    layers: int
    epsilon: float
    """LayerNorm's, from the checkpoint (1e-12 for google/vit-base-patch16-224)."""

    @property
    def padded_tokens(self) -> int:
        return self.tokens_t * TILE

    @property
    def pixels(self) -> int:
        """Width of one flattened patch with its padding: patch height * patch width * 3, rounded up."""
        return self.pixels_t * TILE

    @property
    def hidden(self) -> int:
        return self.hidden_t * TILE

    @property
    def head_size(self) -> int:
        return self.head_t * TILE

    @property
    def heads_per_column(self) -> int:
        return self.heads // self.attention_columns

    @property
    def fused_attention(self) -> bool:
        """Whether attention is one op that never holds all scores, because a core's memory does not."""
        return self.heads_per_column * self.tokens_t**2 > MOST_SCORE_TILES

    @property
    def padded_classes(self) -> int:
        return self.classes_t * TILE


def geometry(config: VitConfig, images_per_chip: int) -> Geometry:
    """Lay a ViT out on one chip.

    Raises UserError naming the size that does not divide when the model does not tile onto the grid.
    """
    head_size = config.hidden_size // config.num_attention_heads
    if not 1 <= images_per_chip <= GRID:
        raise UserError(f"images per chip must be 1 to {GRID}, one row of cores each; got {images_per_chip}")
    if config.num_channels != 3:
        raise UserError(f"model has {config.num_channels} input channels; the t3000 device takes RGB images only")
    for what, (height, width) in (("images", config.image_size), ("patches", config.patch_size)):
        if height != width:
            raise UserError(f"model takes {what} of {height}x{width}; the t3000 device takes square ones only")
    side, patch = config.image_size[0], config.patch_size[0]
    if side % patch:
        raise UserError(f"model's image size {side} does not divide into patches of {patch}")
    for name, size in (("hidden size", config.hidden_size), ("MLP size", config.intermediate_size)):
        if size % TILE:
            raise UserError(f"model's {name} {size} does not divide into tiles of {TILE}; the t3000 device cannot run it")
    if head_size % TILE:
        heads = f"{config.num_attention_heads} heads of {head_size}"
        raise UserError(f"model's {heads} do not divide into tiles of {TILE}; the t3000 device cannot run it")

    hidden_t, mlp_t = config.hidden_size // TILE, config.intermediate_size // TILE
    columns = _most_columns(gcd(hidden_t, mlp_t))
    return Geometry(
        images=images_per_chip,
        columns=columns,
        attention_columns=_most_columns(config.num_attention_heads),
        image_size=side,
        patch_size=patch,
        patches=side // patch,
        tokens=config.tokens,
        tokens_t=-(-config.tokens // TILE),
        pixels_t=-(-3 * patch**2 // (TILE * columns)) * columns,
        hidden_t=hidden_t,
        heads=config.num_attention_heads,
        head_t=head_size // TILE,
        mlp_t=mlp_t,
        classes=config.num_labels,
        classes_t=-(-config.num_labels // (TILE * GRID)) * GRID,
        layers=config.num_hidden_layers,
        epsilon=config.layer_norm_eps,
    )


def _most_columns(size: int) -> int:
    """The most columns of cores that `size` divides over evenly."""
    return max(columns for columns in range(1, GRID + 1) if size % columns == 0)
