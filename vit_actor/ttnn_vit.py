"""The Vision Transformer as ttnn runs it: pixels in, class scores out, one function per block of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import ttnn
from ttnn import Tensor

from vit_actor.geometry import GRID, Geometry
from vit_actor.weights import CENTRE, Layer, Linear, Norm, Weights, rounded

MATMUL = ttnn.bfloat8_b
"""Encoder weights and the tensors between its matmuls: half the bytes and twice the rate of bfloat16."""
RESIDUAL = ttnn.bfloat16
"""The sum that runs through all blocks, to which every block's rounding error is added."""


Precision = Literal["fast", "accurate"]
"""fast multiplies the encoder's linear layers at LoFi, accurate at HiFi2. All else is the same."""


def _math(fidelity: Any, *, exact_registers: bool = False, approximate: bool = False) -> Any:
    return ttnn.WormholeComputeKernelConfig(
        math_fidelity=fidelity, math_approx_mode=approximate, fp32_dest_acc_en=exact_registers, packer_l1_acc=True
    )


# A product takes a tile 16 cycles at LoFi, 32 at HiFi2, 48 at HiFi3. LoFi multiplies 5 significant bits of the weight by 7 of
# the activation; HiFi2 takes 10 bits of the weight, which is all of bfloat8_b and of bfloat16.
LOFI = _math(ttnn.MathFidelity.LoFi, approximate=True)
HIFI2 = _math(ttnn.MathFidelity.HiFi2, approximate=True)
"""For the encoder: linear layers of `accurate`, attention, softmax."""
LOFI_BITS = 5
"""Significant bits of a weight that LoFi multiplies. It cuts off the others, so weights are rounded to them beforehand."""
NORM = _math(ttnn.MathFidelity.HiFi2)
PATCHES = _math(ttnn.MathFidelity.HiFi2, exact_registers=True)
EXACT = _math(ttnn.MathFidelity.HiFi3, exact_registers=True)
"""For the class token after the last block, where it costs next to nothing. HiFi4 with float32 sums can be worse on Wormhole."""
EXACT_REGISTERS, REGISTERS = 4, 8
"""Tiles that the destination registers hold: half as many when they accumulate in float32."""
SDPA_CHUNK = 128
"""Tokens of a block of scores when attention is one op."""


@dataclass(frozen=True)
class Plan:
    """Where the tensors of each step lie and how its cores divide the work; all of it follows from geometry and precision."""

    size: Geometry
    stable_softmax: bool
    pixels_memory: Any
    """uint8 (images, padded tokens, pixels), row-major: an image per row of cores, its patches' pixels along the columns."""
    features_memory: Any
    """(images, padded tokens, hidden): the same, features along the columns."""
    tokens_memory: Any
    """Where the table of tokens stays: beside the features it is added to, if the cores have room."""
    qkv_memory: Any
    """(images, padded tokens, 3 * hidden) over the columns that divide the heads."""
    linear_math: Any
    patches: Any
    norm: Any
    qkv: Any
    qkv_lands: Any
    """Where the QKV product is written: qkv_memory, or over the features' columns, to be moved."""
    scores: Any
    softmax: Any
    context: Any
    fused_attention: Any
    projection: Any
    mlp_up: Any
    mlp_down: Any
    classifier: Any


def plan(size: Geometry, precision: Precision, stable_softmax: bool = False) -> Plan:
    """Program and memory configurations for one chip.

    stable_softmax: subtract the largest score of a row first, for a model whose scores could overflow (`steep`).
    """
    features_t = size.hidden_t // size.columns  # feature tiles per core
    rows_t = size.heads_per_column * size.tokens_t  # score tiles per core, height
    attention_grid = (size.attention_columns, size.images)
    # Fewer columns make the product longer, which at LoFi costs less than moving its result.
    qkv_columns = size.attention_columns if precision == "fast" and not size.fused_attention else size.columns

    def block_sharded(columns: int, width: int) -> Any:
        return ttnn.create_sharded_memory_config(
            (size.images, size.padded_tokens, width),
            core_grid=ttnn.CoreGrid(y=size.images, x=columns),
            strategy=ttnn.ShardStrategy.BLOCK,
            orientation=ttnn.ShardOrientation.ROW_MAJOR,
        )

    def dense(
        inputs_t: int,
        outputs_t: int,
        *,
        inputs_on: int = size.columns,
        outputs_on: int = size.columns,
        registers: int = REGISTERS,
        activation: Any = None,
    ) -> Any:
        """A linear layer over all tokens: every core multiplies its image's tokens by its columns of the weight."""
        return ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(
            compute_with_storage_grid_size=(max(inputs_on, outputs_on), size.images),
            in0_block_w=1 if size.fused_attention else inputs_t // inputs_on,  # long sequences: memory goes before speed
            out_subblock_h=1,
            out_subblock_w=_widest(outputs_t // outputs_on, registers),
            per_core_M=size.tokens_t,
            per_core_N=outputs_t // outputs_on,
            transpose_mcast=False,
            fused_activation=activation,
        )

    def per_head(inner_t: int, outputs_t: int) -> Any:
        """A matmul within each head, on the core that holds the head."""
        return ttnn.MatmulMultiCoreReuseProgramConfig(
            compute_with_storage_grid_size=attention_grid,
            in0_block_w=inner_t,
            out_subblock_h=1,
            out_subblock_w=_widest(outputs_t, REGISTERS),
            per_core_M=rows_t,
            per_core_N=outputs_t,
        )

    return Plan(
        size=size,
        stable_softmax=stable_softmax,
        pixels_memory=block_sharded(size.columns, size.pixels),
        features_memory=block_sharded(size.columns, size.hidden),
        tokens_memory=ttnn.DRAM_MEMORY_CONFIG if size.fused_attention else block_sharded(size.columns, size.hidden),
        qkv_memory=block_sharded(size.attention_columns, 3 * size.hidden),
        linear_math=LOFI if precision == "fast" else HIFI2,
        patches=dense(size.pixels_t, size.hidden_t, registers=EXACT_REGISTERS),
        norm=ttnn.LayerNormShardedMultiCoreProgramConfig(
            compute_with_storage_grid_size=(size.columns, size.images),
            subblock_w=_widest(features_t, REGISTERS),
            block_h=size.tokens_t,
            block_w=features_t,
            inplace=False,
        ),
        qkv=dense(size.hidden_t, 3 * size.hidden_t, outputs_on=qkv_columns),
        qkv_lands=block_sharded(qkv_columns, 3 * size.hidden),
        scores=per_head(size.head_t, size.tokens_t),
        softmax=ttnn.SoftmaxShardedMultiCoreProgramConfig(
            compute_with_storage_grid_size=attention_grid,
            subblock_w=_widest(size.tokens_t, REGISTERS),
            block_h=rows_t,
            block_w=size.tokens_t,
        ),
        context=per_head(size.tokens_t, size.head_t),
        fused_attention=ttnn.SDPAProgramConfig(
            compute_with_storage_grid_size=(GRID, GRID), q_chunk_size=SDPA_CHUNK, k_chunk_size=SDPA_CHUNK
        ),
        projection=dense(
            size.hidden_t, size.hidden_t, inputs_on=size.columns if size.fused_attention else size.attention_columns
        ),
        mlp_up=dense(size.hidden_t, size.mlp_t, activation=(ttnn.UnaryOpType.GELU, True)),
        mlp_down=dense(size.mlp_t, size.hidden_t),
        classifier=ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(
            compute_with_storage_grid_size=(GRID, size.images),
            in0_block_w=features_t,
            out_subblock_h=1,
            out_subblock_w=_widest(size.classes_t // GRID, EXACT_REGISTERS),
            per_core_M=1,
            per_core_N=size.classes_t // GRID,
            transpose_mcast=False,
            fused_activation=None,
        ),
    )


def place(weights: Weights[torch.Tensor], mesh: ttnn.MeshDevice, plan: Plan) -> Weights[Tensor]:
    """Copy weights to every chip's DRAM, and the table of tokens to its cores, each in the precision it needs."""

    def put(tensor: torch.Tensor, dtype: Any, memory: Any = ttnn.DRAM_MEMORY_CONFIG) -> Tensor:
        return ttnn.from_torch(tensor.contiguous(), dtype=dtype, layout=ttnn.TILE_LAYOUT, device=mesh, memory_config=memory)

    def linear(part: Linear[torch.Tensor]) -> Linear[Tensor]:
        weight = rounded(part.weight, LOFI_BITS) if plan.linear_math is LOFI else part.weight
        return Linear(put(weight, MATMUL), put(part.bias, ttnn.bfloat16))

    def norm(part: Norm[torch.Tensor]) -> Norm[Tensor]:
        return Norm(put(part.weight, ttnn.bfloat16), put(part.bias, ttnn.bfloat16))

    return Weights(
        patches=put(weights.patches, ttnn.bfloat16),
        tokens=put(weights.tokens.repeat(plan.size.images, 1, 1), ttnn.bfloat16, plan.tokens_memory),
        mask=put(weights.mask, ttnn.bfloat16),
        layers=tuple(
            Layer(
                norm_before=norm(layer.norm_before),
                qkv=linear(layer.qkv),
                projection=linear(layer.projection),
                norm_after=norm(layer.norm_after),
                mlp_up=linear(layer.mlp_up),
                mlp_down=linear(layer.mlp_down),
            )
            for layer in weights.layers
        ),
        norm=norm(weights.norm),
        classifier=Linear(put(weights.classifier.weight, ttnn.bfloat16), put(weights.classifier.bias, ttnn.bfloat16)),
    )


def vit(arrivals: Tensor, weights: Weights[Tensor], plan: Plan) -> Tensor:
    """Patches' pixels -> logits bfloat16 (images, 1, padded classes), row-major.

    arrivals: uint8 (images, padded tokens, pixels), row-major, in DRAM; stays as it is. Row 0 and the padding rows hold CENTRE.
    """
    hidden = embeddings(ttnn.to_memory_config(arrivals, plan.pixels_memory), weights, plan)
    for layer in weights.layers:
        hidden = encoder_block(hidden, layer, weights.mask, plan)
    return classify_token(hidden, weights, plan)


def embeddings(pixels: Tensor, weights: Weights[Tensor], plan: Plan) -> Tensor:
    """Project patches, add class token and positions -> (images, padded tokens, hidden)."""
    # Tilized first: the cast works on tiles, and on rows it takes a slow path. (tilize to bfloat16 in one op computes noise.)
    values = ttnn.typecast(ttnn.tilize(pixels), ttnn.bfloat16)
    centred = ttnn.subtract(values, CENTRE)
    patches = ttnn.linear(
        centred,
        weights.patches,
        program_config=plan.patches,
        compute_kernel_config=PATCHES,
        memory_config=plan.features_memory,
        dtype=RESIDUAL,
    )
    return ttnn.add_(patches, weights.tokens)


def encoder_block(hidden: Tensor, layer: Layer[Tensor], mask: Tensor, plan: Plan) -> Tensor:
    """hidden + attention, then + MLP, each on the normalised sum so far; written over hidden."""
    hidden = ttnn.add_(hidden, self_attention(layer_norm(hidden, layer.norm_before, plan), layer, mask, plan))
    return ttnn.add_(hidden, mlp(layer_norm(hidden, layer.norm_after, plan), layer, plan))


def self_attention(hidden: Tensor, layer: Layer[Tensor], mask: Tensor, plan: Plan) -> Tensor:
    """Multi-head self-attention; the mask keeps padding tokens out of the softmax."""
    qkv = linear(hidden, layer.qkv, plan.qkv, plan.linear_math, plan.qkv_lands)
    del hidden
    context = (fused_attention if plan.size.fused_attention else attention)(qkv, mask, plan)
    return linear(context, layer.projection, plan.projection, plan.linear_math, plan.features_memory)


def attention(qkv: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """softmax(query @ key / sqrt(head size) + mask) @ value, every head on the core that holds it."""
    size, in_heads = plan.size, ttnn.L1_HEIGHT_SHARDED_MEMORY_CONFIG
    if plan.qkv_lands != plan.qkv_memory:
        qkv = ttnn.to_memory_config(qkv, plan.qkv_memory)
    query, key, value = ttnn.transformer.split_query_key_value_and_split_heads(qkv, num_heads=size.heads, memory_config=in_heads)
    scores = ttnn.matmul(
        query, key, program_config=plan.scores, compute_kernel_config=HIFI2, memory_config=in_heads, dtype=MATMUL
    )
    del query, key
    weights = ttnn.scale_mask_softmax_in_place(
        scores,
        size.head_size**-0.5,
        mask,
        program_config=plan.softmax,
        compute_kernel_config=HIFI2,
        numeric_stable=plan.stable_softmax,
    )
    context = ttnn.matmul(
        weights, value, program_config=plan.context, compute_kernel_config=HIFI2, memory_config=in_heads, dtype=MATMUL
    )
    return ttnn.transformer.concatenate_heads(context, memory_config=ttnn.L1_BLOCK_SHARDED_MEMORY_CONFIG)


def fused_attention(qkv: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """The same where a core's memory does not hold the scores of its heads: computed and used block by block, out of DRAM."""
    size = plan.size
    qkv = ttnn.to_memory_config(qkv, ttnn.DRAM_MEMORY_CONFIG)
    query, key, value = ttnn.transformer.split_query_key_value_and_split_heads(
        qkv, num_heads=size.heads, transpose_key=False, memory_config=ttnn.DRAM_MEMORY_CONFIG
    )
    context = ttnn.transformer.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=False,
        scale=size.head_size**-0.5,
        program_config=plan.fused_attention,
        compute_kernel_config=HIFI2,
        memory_config=ttnn.DRAM_MEMORY_CONFIG,
    )
    context = ttnn.transformer.concatenate_heads(context, memory_config=ttnn.DRAM_MEMORY_CONFIG)
    return ttnn.to_memory_config(context, plan.features_memory)


def mlp(hidden: Tensor, layer: Layer[Tensor], plan: Plan) -> Tensor:
    """Two linear layers, GELU between."""
    expanded = linear(hidden, layer.mlp_up, plan.mlp_up, plan.linear_math, ttnn.L1_BLOCK_SHARDED_MEMORY_CONFIG)
    return linear(expanded, layer.mlp_down, plan.mlp_down, plan.linear_math, plan.features_memory)


def classify_token(hidden: Tensor, weights: Weights[Tensor], plan: Plan) -> Tensor:
    """Normalise the class token alone and score it -> bfloat16 (images, 1, padded classes), row-major."""
    size = plan.size
    hidden = ttnn.sharded_to_interleaved(hidden, ttnn.L1_MEMORY_CONFIG)
    token = ttnn.slice(hidden, [0, 0, 0], [size.images, 1, size.hidden])
    token = ttnn.layer_norm(
        token, weight=weights.norm.weight, bias=weights.norm.bias, epsilon=size.epsilon, compute_kernel_config=EXACT
    )
    logits = ttnn.linear(
        token,
        weights.classifier.weight,
        bias=weights.classifier.bias,
        program_config=plan.classifier,
        compute_kernel_config=EXACT,
        memory_config=ttnn.L1_MEMORY_CONFIG,
        dtype=ttnn.bfloat16,
    )
    return ttnn.to_layout(logits, ttnn.ROW_MAJOR_LAYOUT)


def linear(hidden: Tensor, part: Linear[Tensor], program: Any, math: Any, memory: Any) -> Tensor:
    """x @ weight + bias, block-sharded in and out."""
    return ttnn.linear(
        hidden,
        part.weight,
        bias=part.bias,
        program_config=program,
        compute_kernel_config=math,
        memory_config=memory,
        dtype=MATMUL,
    )


def layer_norm(hidden: Tensor, part: Norm[Tensor], plan: Plan) -> Tensor:
    """LayerNorm over the features, with the checkpoint's epsilon."""
    return ttnn.layer_norm(
        hidden,
        weight=part.weight,
        bias=part.bias,
        epsilon=plan.size.epsilon,
        program_config=plan.norm,
        compute_kernel_config=NORM,
        memory_config=plan.features_memory,
    )


def _widest(tiles: int, registers: int) -> int:
    """The widest run of output tiles that divides `tiles` and fits the destination registers."""
    return max(width for width in range(1, registers + 1) if tiles % width == 0)
