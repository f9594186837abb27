"""How long a batch keeps a chip: what is published, and what this graph is expected to take, kept apart.

python -m vit_actor.device_time prints the table of vit_actor/README.md. Nothing here was measured on silicon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vit_actor.config import VitConfig
from vit_actor.geometry import Geometry, geometry

N300_CHIP_IMAGES_PER_SECOND = 1323
"""ViT-Base/16-224 on one chip of an n300, end to end, trace and two queues, batch 8: Tenstorrent's own figure."""
T3000_IMAGES_PER_SECOND = 8 * N300_CHIP_IMAGES_PER_SECOND
"""What a host must be able to feed: eight chips at that rate. The simulated device, preflight and the projection assume it."""
T3000_PUBLISHED = 7700
"""Images/s of a Wormhole QuietBox at batch 64 (eight chips, data parallel), as Tenstorrent publishes it for its own graph."""

# The model: 1 GHz; a product of two tiles, and an op's work on a tile, in cycles; a gap between ops. The cycles are taken from
# the kernels' sources where they decide (16 a product and fidelity phase), the rest is fitted to one published figure, 5.13 ms of
# kernels for a batch of 8. An op may be off by 30%, the sum by 12%.
PRODUCT = {"LoFi": 34, "HiFi2": 41, "HiFi3": 62}
"""16, 32 and 48 of multiplying; feeding the tiles, their weights and the partial sums is the rest."""
PER_TILE = {"layer_norm": 1000, "softmax": 430, "gelu": 95, "add_": 95, "typecast": 95, "subtract": 95, "tilize": 95}
MOVED_TILE = 100
"""A tile through the network on chip to another core, or to DRAM and back."""
GAP_MICROSECONDS = 5.5
"""From the end of one op to the start of the next, in a trace."""


@dataclass(frozen=True)
class Step:
    """`times` ops of one kind in a trace, each with its gap. microseconds: of one."""

    op: str
    purpose: str
    times: int
    microseconds: float


def steps(size: Geometry, precision: Literal["fast", "accurate"]) -> list[Step]:
    """The ops of one trace, in order of the graph, with what each is expected to take for `size.images` images on a chip.

    Raises ValueError for a model whose attention is fused: nothing is known of that op's time.
    """
    if size.fused_attention:
        raise ValueError("no figure is known for fused attention")
    hidden, qkv, expanded = (size.tokens_t * part // size.columns for part in (size.hidden_t, 3 * size.hidden_t, size.mlp_t))
    heads_qkv, heads_hidden = (size.tokens_t * part // size.attention_columns for part in (3 * size.hidden_t, size.hidden_t))
    scores = size.heads_per_column * size.tokens_t**2
    pixels = size.tokens_t * size.pixels_t // size.columns
    linears = "LoFi" if precision == "fast" else "HiFi2"
    straight = precision == "fast" or size.columns == size.attention_columns

    def product(outputs: int, inner_t: int, fidelity: str) -> float:
        return outputs * inner_t * PRODUCT[fidelity] / 1e3

    def each(op: str, tiles: int) -> float:
        return tiles * PER_TILE[op] / 1e3

    def moved(tiles: int) -> float:
        return tiles * MOVED_TILE / 1e3

    layers, classes = size.layers, size.classes_t // 8
    listed = [
        Step("to_memory_config", "upload to the cores", 1, moved(pixels // 2)),
        Step("tilize", "pixels to tiles", 1, each("tilize", pixels)),
        Step("typecast", "to bfloat16", 1, each("typecast", pixels)),
        Step("subtract", "centre", 1, each("subtract", pixels)),
        Step("linear", "patch projection", 1, product(hidden, size.pixels_t, "HiFi2")),
        Step("add_", "class token, positions", 1, each("add_", hidden)),
        Step("layer_norm", "before attention and MLP", 2 * layers, each("layer_norm", hidden)),
        Step("linear", "query, key, value", layers, product(heads_qkv if straight else qkv, size.hidden_t, linears)),
        Step("to_memory_config", "to the heads' columns", 0 if straight else layers, moved(heads_qkv)),
        Step("transformer.split_query_key_value_and_split_heads", "", layers, moved(heads_qkv)),
        Step("matmul", "scores", layers, product(scores, size.head_t, "HiFi2")),
        Step("scale_mask_softmax_in_place", "", layers, each("softmax", scores)),
        Step("matmul", "context", layers, product(heads_hidden, size.tokens_t, "HiFi2")),
        Step("transformer.concatenate_heads", "", layers, moved(heads_hidden)),
        Step("linear", "attention's projection", layers, product(hidden, size.hidden_t, linears)),
        Step("linear", "MLP up, GELU", layers, product(expanded, size.hidden_t, linears) + each("gelu", expanded)),
        Step("linear", "MLP down", layers, product(hidden, size.mlp_t, linears)),
        Step("add_", "residuals", 2 * layers, each("add_", hidden)),
        Step("sharded_to_interleaved", "for the class token", 1, moved(hidden)),
        Step("slice", "class token", 1, moved(size.hidden_t // 8)),
        Step("layer_norm", "class token", 1, each("layer_norm", size.hidden_t)),
        Step("linear", "classifier", 1, product(classes, size.hidden_t, "HiFi3") + moved(classes * size.hidden_t)),
        Step("to_layout", "rows of logits", 1, moved(classes)),
        Step("to_memory_config", "answer to DRAM", 1, moved(classes)),
    ]
    return [step for step in listed if step.times]


def milliseconds(listed: list[Step]) -> float:
    """Of the whole trace, gaps included."""
    return sum(step.times * (step.microseconds + GAP_MICROSECONDS) for step in listed) / 1e3


def table(precision: Literal["fast", "accurate"]) -> str:
    """ViT-Base's trace, as Markdown."""
    size = geometry(VitConfig(id2label=tuple(map(str, range(1000)))), images_per_chip=8)
    listed = steps(size, precision)
    lines = ["| op | for | times | us each | us in all |", "|---|---|---|---|---|"]
    for step in listed:
        lines.append(
            f"| `{step.op}` | {step.purpose} | {step.times} | {step.microseconds:.1f} | {step.times * step.microseconds:.0f} |"
        )
    ops, total = sum(step.times for step in listed), milliseconds(listed)
    lines.append(f"| gaps | | {ops} | {GAP_MICROSECONDS} | {ops * GAP_MICROSECONDS:.0f} |")
    rate = 8 * size.images / total * 1e3
    lines.append(f"| **together** | | {ops} | | **{total * 1e3:,.0f}**, {rate:,.0f} images/s on eight chips |")
    return "\n".join(lines)


if __name__ == "__main__":
    for name in ("fast", "accurate"):
        print(f"{name}, expected (no figure is from silicon)\n\n{table(name)}\n")
