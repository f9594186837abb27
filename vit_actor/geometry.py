"""How one ViT lies on a Wormhole chip: every size in tiles, computed once from the checkpoint's configuration."""

from dataclasses import dataclass
from math import gcd

from vit_actor.config import VitConfig
from vit_actor.errors import UserError

TILE = 32
GRID = 8  # Rows and columns of cores that every Wormhole board has free for compute, n150 and n300 alike
IMAGES_PER_CHIP = GRID  # In a batch, unless told otherwise
MOST_SCORE_TILES = 256
"""Tiles of attention scores that a core holds beside the rest, 1,088 bytes each. ViT-Base at 224 has 98, at 384 722."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of the graph on one chip. A name ending in _t counts tiles of 32; the others count elements.

    Each image has a row of the core grid to itself, or shares it with one other, and its features lie along the columns. The
    attention heads may need fewer columns than the features: ViT-Base has 8 columns of 3 feature tiles, and 6 of 2 heads.

    images: in a batch on one chip. rows: of cores in use. rows_t: of tokens on one core. columns: that share the features.
    attention_columns: that share the heads. patches: along one side of an image. tokens: class token and patches.
    pixels: width of one flattened patch, padded so that it divides over the columns.
    features_t, score_rows_t: width of the features, and rows of attention scores, on one core. epsilon: LayerNorm's.
    """

    images: int
    rows: int
    rows_t: int
    columns: int
    attention_columns: int
    patch_size: int
    patches: int
    tokens: int
    padded_tokens: int
    tokens_t: int
    pixels: int
    hidden: int
    features_t: int
    heads: int
    head_size: int
    score_rows_t: int
    classes: int
    padded_classes: int
    epsilon: float

    @property
    def fused_attention(self) -> bool:
        """Whether attention is one op that never holds all scores, because a core's memory does not."""
        return self.images > self.rows or self.score_rows_t * self.tokens_t > MOST_SCORE_TILES


def geometry(config: VitConfig, images_per_chip: int) -> Geometry:
    """Lay a ViT out on one chip.

    Raises UserError naming the size that does not divide when the model does not tile onto the grid.
    """
    heads, hidden, mlp = config.num_attention_heads, config.hidden_size, config.intermediate_size
    side, patch = config.image_size[0], config.patch_size[0]
    on_a_row = -(-images_per_chip // GRID)
    if not 1 <= images_per_chip <= 2 * GRID or images_per_chip % on_a_row:
        raise UserError(
            f"--images-per-chip {images_per_chip}: it must be 1 to {GRID}, or even up to {2 * GRID}, two on a row of cores"
        )
    for what, (height, width) in (("images", config.image_size), ("patches", config.patch_size)):
        if height != width:
            raise UserError(f"model takes {what} of {height}x{width}; the t3000 device takes square ones only")
    if side % patch:
        raise UserError(f"model's image size {side} does not divide into patches of {patch}")
    head = hidden // heads
    sizes = {f"hidden size {hidden} does": hidden, f"MLP size {mlp} does": mlp, f"{heads} heads of {head} do": head}
    for what, size in sizes.items():
        if size % TILE:
            raise UserError(f"model's {what} not divide into tiles of {TILE}; the t3000 device cannot run it")
    columns, attention_columns = _most_columns(gcd(hidden // TILE, mlp // TILE)), _most_columns(heads)
    tokens_t = -(-config.tokens // TILE)
    return Geometry(
        images=images_per_chip,
        rows=images_per_chip // on_a_row,
        rows_t=on_a_row * tokens_t,
        columns=columns,
        attention_columns=attention_columns,
        patch_size=patch,
        patches=side // patch,
        tokens=config.tokens,
        padded_tokens=tokens_t * TILE,
        tokens_t=tokens_t,
        pixels=-(-3 * patch**2 // (TILE * columns)) * TILE * columns,
        hidden=hidden,
        features_t=hidden // TILE // columns,
        heads=heads,
        head_size=head,
        score_rows_t=heads // attention_columns * tokens_t,
        classes=config.num_labels,
        padded_classes=-(-config.num_labels // (TILE * GRID)) * TILE * GRID,
        epsilon=config.layer_norm_eps,
    )


def _most_columns(size: int) -> int:
    """The most columns of cores that `size` divides over evenly."""
    return max(columns for columns in range(1, GRID + 1) if size % columns == 0)
