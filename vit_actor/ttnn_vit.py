"""The Vision Transformer as ttnn runs it: pixels in, class scores out, one function per block of the paper."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import ttnn
from ttnn import Tensor

from vit_actor.geometry import GRID, TILE, Geometry
from vit_actor.weights import CENTRE, Layer, Part, Weights, rounded

Precision = Literal["fast", "accurate"]
"""fast multiplies the encoder's linear layers at LoFi, accurate at HiFi2. All else is the same."""
MATMUL = ttnn.bfloat8_b  # Encoder weights and the tensors between its matmuls: half the bytes and twice the rate of bfloat16
RESIDUAL = ttnn.bfloat16  # The sum that runs through all blocks, to which every block's rounding error is added
REGISTERS, EXACT_REGISTERS = 8, 4  # Tiles that the destination registers hold: half as many when they accumulate in float32
SDPA_CHUNK = 128  # Tokens of a block of scores when attention is one op


def _math(fidelity: Any, *, exact_registers: bool = False, approximate: bool = False) -> Any:
    return ttnn.WormholeComputeKernelConfig(
        math_fidelity=fidelity, math_approx_mode=approximate, fp32_dest_acc_en=exact_registers, packer_l1_acc=True
    )


# A product takes a tile 16 cycles at LoFi, 32 at HiFi2, 48 at HiFi3. LoFi multiplies 5 significant bits of the weight by 7 of
# the activation; HiFi2 takes 10 bits of the weight, which is all of bfloat8_b and of bfloat16.
LOFI = _math(ttnn.MathFidelity.LoFi, approximate=True)
LOFI_BITS = 5
"""Significant bits of a weight that LoFi multiplies. It cuts off the others, so weights are rounded to them beforehand."""
HIFI2 = _math(ttnn.MathFidelity.HiFi2, approximate=True)  # For the encoder: linear layers of `accurate`, attention, softmax
NORM = _math(ttnn.MathFidelity.HiFi2)
PATCHES = _math(ttnn.MathFidelity.HiFi2, exact_registers=True)
EXACT = _math(ttnn.MathFidelity.HiFi3, exact_registers=True)
"""For the class token after the last block, where it costs next to nothing. HiFi4 with float32 sums can be worse on Wormhole."""


@dataclass(frozen=True)
class Plan:
    """What is chosen for a model on one chip; how each op's cores divide its work follows from it.

    linear_math: of the encoder's linear layers. qkv_columns: that queries, keys and values are written over.
    stable_softmax: subtract the largest score of a row first, for a model whose scores could overflow (`steep`).
    """

    size: Geometry
    linear_math: Any
    qkv_columns: int
    stable_softmax: bool
    gelu: Any = (ttnn.UnaryOpType.GELU, True)


def plan(size: Geometry, precision: Precision, stable_softmax: bool = False) -> Plan:
    """The graph's settings for one chip at a precision."""
    fast = precision == "fast"
    # Over the heads' fewer columns the product takes longer, which at LoFi costs less than to move its result there.
    qkv_columns = size.attention_columns if fast and not size.fused_attention else size.columns
    return Plan(size, LOFI if fast else HIFI2, qkv_columns, stable_softmax)


def place(weights: Weights[torch.Tensor], mesh: ttnn.MeshDevice, plan: Plan) -> Weights[Tensor]:
    """Copy weights to every chip's DRAM, each in the precision it needs; the table of tokens to the cores if they have room."""

    def put(tensor: torch.Tensor, dtype: Any = ttnn.bfloat16, memory: Any = ttnn.DRAM_MEMORY_CONFIG) -> Tensor:
        return ttnn.from_torch(tensor.contiguous(), dtype=dtype, layout=ttnn.TILE_LAYOUT, device=mesh, memory_config=memory)

    def parts(layer: Layer[torch.Tensor]) -> Iterator[tuple[str, Part[Tensor]]]:
        for name, part in vars(layer).items():
            if name.startswith("norm"):
                yield name, Part(put(part.weight), put(part.bias))
            else:
                weight = rounded(part.weight, LOFI_BITS) if plan.linear_math is LOFI else part.weight
                yield name, Part(put(weight, MATMUL), put(part.bias))

    size = plan.size
    table_memory = ttnn.DRAM_MEMORY_CONFIG if size.fused_attention else sharded(size, size.hidden)
    return Weights(
        patches=put(weights.patches),
        tokens=put(weights.tokens.repeat(size.images, 1, 1), memory=table_memory),
        mask=put(weights.mask),
        layers=tuple(Layer(**dict(parts(layer))) for layer in weights.layers),
        norm=Part(put(weights.norm.weight), put(weights.norm.bias)),
        classifier=Part(put(weights.classifier.weight), put(weights.classifier.bias)),
    )


def vit(arrivals: Tensor, weights: Weights[Tensor], plan: Plan) -> Tensor:
    """Patches' pixels -> logits bfloat16 (images, 1, padded classes), row-major.

    arrivals: uint8 (images, padded tokens, pixels), row-major, in DRAM; stays as it is. Row 0 and the padding rows hold CENTRE.
    """
    size = plan.size
    hidden = embeddings(ttnn.to_memory_config(arrivals, sharded(size, size.pixels)), weights, size)
    for layer in weights.layers:
        hidden = encoder_block(hidden, layer, weights.mask, plan)
    return classify_token(hidden, weights, size)


def embeddings(pixels: Tensor, weights: Weights[Tensor], size: Geometry) -> Tensor:
    """Project patches, add class token and positions -> (images, padded tokens, hidden)."""
    # Tilized first: the cast works on tiles, and on rows it takes a slow path. (tilize to bfloat16 in one op computes noise.)
    values = ttnn.typecast(ttnn.tilize(pixels), ttnn.bfloat16)
    centred = ttnn.subtract(values, CENTRE)
    patches = ttnn.linear(
        centred,
        weights.patches,
        program_config=dense(size, size.columns, size.pixels // size.columns // TILE, size.features_t, EXACT_REGISTERS),
        compute_kernel_config=PATCHES,
        memory_config=sharded(size, size.hidden),
        dtype=RESIDUAL,
    )
    return ttnn.add_(patches, weights.tokens)


def encoder_block(hidden: Tensor, layer: Layer[Tensor], mask: Tensor, plan: Plan) -> Tensor:
    """hidden + attention, then + MLP, each on the normalised sum so far; written over hidden."""
    hidden = ttnn.add_(hidden, self_attention(layer_norm(hidden, layer.norm_before, plan.size), layer, mask, plan))
    return ttnn.add_(hidden, mlp(layer_norm(hidden, layer.norm_after, plan.size), layer, plan))


def self_attention(hidden: Tensor, layer: Layer[Tensor], mask: Tensor, plan: Plan) -> Tensor:
    """Multi-head self-attention; the mask keeps padding tokens out of the softmax."""
    qkv = linear(hidden, layer.qkv, plan, columns=plan.qkv_columns)
    del hidden
    context = (fused_attention if plan.size.fused_attention else attention)(qkv, mask, plan)
    return linear(context, layer.projection, plan)


def attention(qkv: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """softmax(query @ key / sqrt(head size) + mask) @ value, every head on the core that holds it."""
    size, in_heads = plan.size, ttnn.L1_HEIGHT_SHARDED_MEMORY_CONFIG
    if plan.qkv_columns != size.attention_columns:
        qkv = ttnn.to_memory_config(qkv, sharded(size, 3 * size.hidden, size.attention_columns))
    query, key, value = ttnn.transformer.split_query_key_value_and_split_heads(qkv, num_heads=size.heads, memory_config=in_heads)
    scores = per_head(query, key, size, size.head_size // TILE, size.tokens_t)
    del query, key
    weights = ttnn.scale_mask_softmax_in_place(
        scores,
        size.head_size**-0.5,
        mask,
        program_config=ttnn.SoftmaxShardedMultiCoreProgramConfig(
            **in_blocks(size.attention_columns, size.images, size.score_rows_t, size.tokens_t)
        ),
        compute_kernel_config=HIFI2,
        numeric_stable=plan.stable_softmax,
    )
    context = per_head(weights, value, size, size.tokens_t, size.head_size // TILE)
    return ttnn.transformer.concatenate_heads(context, memory_config=ttnn.L1_BLOCK_SHARDED_MEMORY_CONFIG)


def fused_attention(qkv: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """The same where a core's memory does not hold the scores of its heads: computed and used block by block, out of DRAM."""
    size, dram = plan.size, ttnn.DRAM_MEMORY_CONFIG
    qkv = ttnn.to_memory_config(qkv, dram)
    query, key, value = ttnn.transformer.split_query_key_value_and_split_heads(
        qkv, num_heads=size.heads, transpose_key=False, memory_config=dram
    )
    context = ttnn.transformer.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=False,
        scale=size.head_size**-0.5,
        program_config=ttnn.SDPAProgramConfig(
            compute_with_storage_grid_size=(GRID, GRID), q_chunk_size=SDPA_CHUNK, k_chunk_size=SDPA_CHUNK
        ),
        compute_kernel_config=HIFI2,
        memory_config=dram,
    )
    context = ttnn.transformer.concatenate_heads(context, memory_config=dram)
    return ttnn.to_memory_config(context, sharded(size, size.hidden))


def mlp(hidden: Tensor, layer: Layer[Tensor], plan: Plan) -> Tensor:
    """Two linear layers, GELU between."""
    return linear(linear(hidden, layer.mlp_up, plan, activation=plan.gelu), layer.mlp_down, plan)


def classify_token(hidden: Tensor, weights: Weights[Tensor], size: Geometry) -> Tensor:
    """Normalise the class token alone and score it -> bfloat16 (images, 1, padded classes), row-major."""
    norm, on_a_row = weights.norm, size.images // size.rows
    hidden = ttnn.sharded_to_interleaved(hidden, ttnn.L1_MEMORY_CONFIG)
    token = ttnn.slice(hidden, [0, 0, 0], [size.images, 1, size.hidden])
    token = ttnn.layer_norm(token, weight=norm.weight, bias=norm.bias, epsilon=size.epsilon, compute_kernel_config=EXACT)
    logits = ttnn.linear(
        token,
        weights.classifier.weight,
        bias=weights.classifier.bias,
        program_config=dense(size, GRID, size.features_t, size.padded_classes // GRID // TILE, EXACT_REGISTERS, rows_t=on_a_row),
        compute_kernel_config=EXACT,
        memory_config=ttnn.L1_MEMORY_CONFIG,
        dtype=ttnn.bfloat16,
    )
    return ttnn.to_layout(logits, ttnn.ROW_MAJOR_LAYOUT)


def linear(hidden: Tensor, part: Part[Tensor], plan: Plan, *, columns: int | None = None, activation: Any = None) -> Tensor:
    """x @ weight + bias of all tokens. x may lie over any columns of cores; the result lies over `columns` (the features')."""
    size, (inputs, outputs) = plan.size, part.weight.shape
    share, columns = hidden.memory_config().shard_spec.shape[1], columns or size.columns
    grid_columns = max(inputs // share, columns)
    return ttnn.linear(
        hidden,
        part.weight,
        bias=part.bias,
        program_config=dense(size, grid_columns, share // TILE, outputs // columns // TILE, activation=activation),
        compute_kernel_config=plan.linear_math,
        memory_config=sharded(size, outputs, columns),
        dtype=MATMUL,
    )


def layer_norm(hidden: Tensor, part: Part[Tensor], size: Geometry) -> Tensor:
    """LayerNorm over the features, with the checkpoint's epsilon."""
    return ttnn.layer_norm(
        hidden,
        weight=part.weight,
        bias=part.bias,
        epsilon=size.epsilon,
        program_config=ttnn.LayerNormShardedMultiCoreProgramConfig(
            **in_blocks(size.columns, size.rows, size.rows_t, size.features_t), inplace=False
        ),
        compute_kernel_config=NORM,
        memory_config=sharded(size, size.hidden),
    )


def per_head(left: Tensor, right: Tensor, size: Geometry, inner_t: int, outputs_t: int) -> Tensor:
    """left @ right within each head, on the core that holds the head; tiles summed over, and tiles of width of the result."""
    return ttnn.matmul(
        left,
        right,
        program_config=ttnn.MatmulMultiCoreReuseProgramConfig(
            compute_with_storage_grid_size=(size.attention_columns, size.images),
            in0_block_w=inner_t,
            out_subblock_h=1,
            out_subblock_w=widest(outputs_t),
            per_core_M=size.score_rows_t,
            per_core_N=outputs_t,
        ),
        compute_kernel_config=HIFI2,
        memory_config=ttnn.L1_HEIGHT_SHARDED_MEMORY_CONFIG,
        dtype=MATMUL,
    )


def dense(
    size: Geometry,
    columns: int,
    share_t: int,
    outputs_t: int,
    registers: int = REGISTERS,
    *,
    rows_t: int = 0,
    activation: Any = None,
) -> Any:
    """How `columns` of cores multiply: every core takes its image's tokens by its own outputs_t tiles of the weight's columns.

    share_t: tiles of the input that one core holds, all multiplied at once. rows_t: tiles of tokens, 0 for all.
    """
    return ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(
        compute_with_storage_grid_size=(columns, size.rows),
        in0_block_w=1 if size.fused_attention and not rows_t else share_t,  # long sequences: memory goes before speed
        out_subblock_h=1,
        out_subblock_w=widest(outputs_t, registers),
        per_core_M=rows_t or size.rows_t,
        per_core_N=outputs_t,
        transpose_mcast=False,
        fused_activation=activation,
    )


def in_blocks(columns: int, rows: int, height: int, width: int) -> dict[str, Any]:
    """How a sharded softmax or LayerNorm is computed: every core its own block of height by width tiles."""
    return {"compute_with_storage_grid_size": (columns, rows), "subblock_w": widest(width), "block_h": height, "block_w": width}


def sharded(size: Geometry, width: int, columns: int | None = None) -> Any:
    """Memory for (images, padded tokens, width): an image on each row of cores, its width along `columns` (the features')."""
    return ttnn.create_sharded_memory_config(
        (size.images, size.padded_tokens, width),
        core_grid=ttnn.CoreGrid(y=size.rows, x=columns or size.columns),
        strategy=ttnn.ShardStrategy.BLOCK,
        orientation=ttnn.ShardOrientation.ROW_MAJOR,
    )


def widest(tiles: int, registers: int = REGISTERS) -> int:
    """The widest run of output tiles that divides `tiles` and fits the destination registers."""
    return max(width for width in range(1, registers + 1) if tiles % width == 0)
