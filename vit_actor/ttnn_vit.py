"""The Vision Transformer as ttnn runs it: pixels in, class scores out, one function per block of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import ttnn
from ttnn import Tensor

from vit_actor.geometry import GRID, Geometry
from vit_actor.weights import CENTRE, Layer, Linear, Norm, Weights

MATMUL = ttnn.bfloat8_b
"""Encoder weights and the tensors between its matmuls: half the bytes and twice the rate of bfloat16."""
RESIDUAL = ttnn.bfloat16
"""The sum that runs through all blocks, to which every block's rounding error is added."""


EXACT = ttnn.WormholeComputeKernelConfig(
    math_fidelity=ttnn.MathFidelity.HiFi4, math_approx_mode=False, fp32_dest_acc_en=True, packer_l1_acc=True
)
"""For the few steps that everything else rests on: patch projection, LayerNorm, classifier."""
FAST = ttnn.WormholeComputeKernelConfig(
    math_fidelity=ttnn.MathFidelity.HiFi2, math_approx_mode=True, fp32_dest_acc_en=False, packer_l1_acc=True
)
"""For the encoder's matmuls. HiFi2 multiplies all of bfloat8_b's mantissa."""
EXACT_REGISTERS, FAST_REGISTERS = 4, 8
"""Tiles that the destination registers hold: half as many when they accumulate in float32."""


@dataclass(frozen=True)
class Plan:
    """Where the tensors of each step lie and how its cores divide the work; all of it follows from the geometry."""

    size: Geometry
    pixels_memory: Any
    """uint8 (images, padded tokens, pixels), row-major: an image per row of cores, its patches' pixels along the columns."""
    features_memory: Any
    """(images, padded tokens, hidden): the same, features along the columns."""
    qkv_memory: Any
    """(images, padded tokens, 3 * hidden) over the columns that divide the heads."""
    patches: Any
    norm: Any
    qkv: Any
    scores: Any
    softmax: Any
    context: Any
    projection: Any
    mlp_up: Any
    mlp_down: Any
    classifier: Any


def plan(size: Geometry) -> Plan:
    """Program and memory configurations for one chip."""
    features_t = size.hidden_t // size.columns  # feature tiles per core
    rows_t = size.heads_per_column * size.tokens_t  # score tiles per core, height
    attention_grid = (size.attention_columns, size.images)

    def block_sharded(columns: int, width: int) -> Any:
        return ttnn.create_sharded_memory_config(
            (size.images, size.padded_tokens, width),
            core_grid=ttnn.CoreGrid(y=size.images, x=columns),
            strategy=ttnn.ShardStrategy.BLOCK,
            orientation=ttnn.ShardOrientation.ROW_MAJOR,
        )

    def dense(inputs_t: int, outputs_t: int, registers: int = FAST_REGISTERS, activation: Any = None) -> Any:
        """A linear layer over all tokens: every core multiplies its image's tokens by its columns of the weight."""
        return ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(
            compute_with_storage_grid_size=(size.columns, size.images),
            in0_block_w=inputs_t // size.columns,
            out_subblock_h=1,
            out_subblock_w=_widest(outputs_t // size.columns, registers),
            per_core_M=size.tokens_t,
            per_core_N=outputs_t // size.columns,
            transpose_mcast=False,
            fused_activation=activation,
        )

    def per_head(inner_t: int, outputs_t: int) -> Any:
        """A matmul within each head, on the core that holds the head."""
        return ttnn.MatmulMultiCoreReuseProgramConfig(
            compute_with_storage_grid_size=attention_grid,
            in0_block_w=inner_t,
            out_subblock_h=1,
            out_subblock_w=_widest(outputs_t, FAST_REGISTERS),
            per_core_M=rows_t,
            per_core_N=outputs_t,
        )

    return Plan(
        size=size,
        pixels_memory=block_sharded(size.columns, size.pixels),
        features_memory=block_sharded(size.columns, size.hidden),
        qkv_memory=block_sharded(size.attention_columns, 3 * size.hidden),
        patches=dense(size.pixels_t, size.hidden_t, EXACT_REGISTERS),
        norm=ttnn.LayerNormShardedMultiCoreProgramConfig(
            compute_with_storage_grid_size=(size.columns, size.images),
            subblock_w=_widest(features_t, EXACT_REGISTERS),
            block_h=size.tokens_t,
            block_w=features_t,
            inplace=False,
        ),
        qkv=dense(size.hidden_t, 3 * size.hidden_t),
        scores=per_head(size.head_t, size.tokens_t),
        softmax=ttnn.SoftmaxShardedMultiCoreProgramConfig(
            compute_with_storage_grid_size=attention_grid,
            subblock_w=_widest(size.tokens_t, FAST_REGISTERS),
            block_h=rows_t,
            block_w=size.tokens_t,
        ),
        context=per_head(size.tokens_t, size.head_t),
        projection=dense(size.hidden_t, size.hidden_t),
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


def place(weights: Weights[torch.Tensor], mesh: ttnn.MeshDevice) -> Weights[Tensor]:
    """Copy weights to every chip's DRAM, each in the precision it needs."""

    def put(tensor: torch.Tensor, dtype: Any) -> Tensor:
        return ttnn.from_torch(
            tensor.contiguous(), dtype=dtype, layout=ttnn.TILE_LAYOUT, device=mesh, memory_config=ttnn.DRAM_MEMORY_CONFIG
        )

    def linear(part: Linear[torch.Tensor], dtype: Any = MATMUL) -> Linear[Tensor]:
        return Linear(put(part.weight, dtype), put(part.bias, ttnn.bfloat16))

    def norm(part: Norm[torch.Tensor]) -> Norm[Tensor]:
        return Norm(put(part.weight, ttnn.bfloat16), put(part.bias, ttnn.bfloat16))

    return Weights(
        patches=put(weights.patches, ttnn.bfloat16),
        tokens=put(weights.tokens, ttnn.bfloat16),
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
        classifier=linear(weights.classifier, ttnn.bfloat16),
    )


def vit(pixels: Tensor, weights: Weights[Tensor], plan: Plan) -> Tensor:
    """Patches' pixels -> logits bfloat16 (images, 1, padded classes), row-major.

    pixels: uint8 (images, padded tokens, pixels) in plan.pixels_memory; stays allocated. Row 0 and the padding
        rows hold CENTRE.
    """
    hidden = embeddings(pixels, weights, plan)
    for layer in weights.layers:
        hidden = encoder_block(hidden, layer, weights.mask, plan)
    return classify_token(hidden, weights, plan)


def embeddings(pixels: Tensor, weights: Weights[Tensor], plan: Plan) -> Tensor:
    """Project patches, add class token and positions -> (images, padded tokens, hidden)."""
    values = ttnn.tilize(ttnn.typecast(pixels, ttnn.bfloat16))
    centred = ttnn.subtract(values, CENTRE)
    patches = ttnn.linear(
        centred,
        weights.patches,
        program_config=plan.patches,
        compute_kernel_config=EXACT,
        memory_config=plan.features_memory,
        dtype=RESIDUAL,
    )
    return ttnn.add(patches, weights.tokens, memory_config=plan.features_memory, dtype=RESIDUAL)


def encoder_block(hidden: Tensor, layer: Layer[Tensor], mask: Tensor, plan: Plan) -> Tensor:
    """hidden + attention, then + MLP, each on the normalised sum so far."""
    attended = self_attention(layer_norm(hidden, layer.norm_before, plan), layer, mask, plan)
    hidden = ttnn.add(hidden, attended, memory_config=plan.features_memory, dtype=RESIDUAL)
    expanded = mlp(layer_norm(hidden, layer.norm_after, plan), layer, plan)
    return ttnn.add(hidden, expanded, memory_config=plan.features_memory, dtype=RESIDUAL)


def self_attention(hidden: Tensor, layer: Layer[Tensor], mask: Tensor, plan: Plan) -> Tensor:
    """Multi-head self-attention; the mask keeps padding tokens out of the softmax."""
    size = plan.size
    qkv = linear(hidden, layer.qkv, plan.qkv)
    qkv = ttnn.to_memory_config(qkv, plan.qkv_memory)
    query, key, value = ttnn.transformer.split_query_key_value_and_split_heads(
        qkv, num_heads=size.heads, memory_config=ttnn.L1_HEIGHT_SHARDED_MEMORY_CONFIG
    )
    del qkv
    in_heads = ttnn.L1_HEIGHT_SHARDED_MEMORY_CONFIG
    scores = ttnn.matmul(query, key, program_config=plan.scores, memory_config=in_heads, dtype=MATMUL)
    del query, key
    attention = ttnn.scale_mask_softmax_in_place(scores, size.head_size**-0.5, mask, program_config=plan.softmax)
    context = ttnn.matmul(attention, value, program_config=plan.context, memory_config=in_heads, dtype=MATMUL)
    del scores, attention, value
    context = ttnn.transformer.concatenate_heads(context, memory_config=ttnn.L1_BLOCK_SHARDED_MEMORY_CONFIG)
    context = ttnn.to_memory_config(context, plan.features_memory)
    return linear(context, layer.projection, plan.projection)


def mlp(hidden: Tensor, layer: Layer[Tensor], plan: Plan) -> Tensor:
    """Two linear layers, GELU between."""
    return linear(linear(hidden, layer.mlp_up, plan.mlp_up), layer.mlp_down, plan.mlp_down)


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


def linear(hidden: Tensor, part: Linear[Tensor], program: Any) -> Tensor:
    """x @ weight + bias, block-sharded in and out."""
    return ttnn.linear(
        hidden,
        part.weight,
        bias=part.bias,
        program_config=program,
        compute_kernel_config=FAST,
        memory_config=ttnn.L1_BLOCK_SHARDED_MEMORY_CONFIG,
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
        compute_kernel_config=EXACT,
        memory_config=plan.features_memory,
    )


def _widest(tiles: int, registers: int) -> int:
    """The widest run of output tiles that divides `tiles` and fits the destination registers."""
    return max(width for width in range(1, registers + 1) if tiles % width == 0)
