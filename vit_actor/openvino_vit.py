"""A ViT as an OpenVINO graph, built from the checkpoint's tensors: uint8 pixels in, logits out, no other framework needed."""

import sys

import numpy as np

from vit_actor.checkpoint import Checkpoint

# Unless this package is missing, OpenVINO reports its use to its vendor, from forks of this process.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino as ov  # noqa: E402
from openvino import opset15 as op  # noqa: E402

MIDDLE = 128
"""Taken from each byte before it is multiplied. What is left is exact in bfloat16, and its products are as small as those of
normalised pixels, so that rounding weights costs no more."""


def openvino_graph(checkpoint: Checkpoint) -> ov.Model:
    """The checkpoint's model with normalisation in front: uint8 (n, height, width, 3) -> float32 (n, classes), for any n."""
    config = checkpoint.config
    graph = _Graph(checkpoint.tensors(), config.num_attention_heads, config.layer_norm_eps)
    # n stays open: a short batch costs what it holds, not what it could hold.
    pixels = op.parameter([-1, *checkpoint.preprocess.shape], np.uint8, name="pixels")
    hidden = graph.embed(pixels, checkpoint.preprocess.scale, checkpoint.preprocess.shift, config.patch_size)
    for layer in range(config.num_hidden_layers):
        hidden = graph.block(hidden, f"vit.layers.{layer}.")
    first = op.squeeze(op.slice(hidden, [0], [1], [1], [1]), [1])
    logits = graph.linear(graph.norm(first, "vit.layernorm"), "classifier")
    return ov.Model([logits], [pixels], "vit")


class _Graph:
    """The parts of a ViT as nodes, each with the weights of its name. Shapes: b images, t tokens, f features."""

    def __init__(self, tensors: dict[str, np.ndarray], heads: int, epsilon: float) -> None:
        # Wrapped, not copied: what an operation makes of an array by itself takes seconds for a ViT-Base.
        self._tensors = {name: op.constant(tensor, shared_memory=True) for name, tensor in tensors.items()}
        self._heads, self._epsilon = heads, epsilon

    def embed(self, pixels: ov.Node, scale: tuple[float, ...], shift: tuple[float, ...], patch: tuple[int, int]) -> ov.Node:
        """uint8 (b, height, width, 3) -> (b, t, f): cut into patches, normalised and projected, with class token and positions.

        Patches are cut from bytes and projected by one product, which takes half the CPU time of a convolution of floats.
        The normalisation is part of it: w (scale x + shift) + bias = (w scale) (x - MIDDLE) + (bias + w (shift + scale MIDDLE)).
        """
        name = "vit.embeddings.patch_embeddings.projection."
        weight = self._tensors[name + "weight"].data.transpose(0, 2, 3, 1)  # (f, rows, columns, 3), as pixels lie
        by, plus = np.array(scale), np.array(shift)  # of each channel
        bias = self._tensors[name + "bias"].data + (weight * (plus + by * MIDDLE)).sum((1, 2, 3))
        height, width = (pixels.partial_shape[axis].get_length() // patch[axis - 1] for axis in (1, 2))
        whole = op.slice(pixels, [0, 0], [height * patch[0], width * patch[1]], [1, 1], [1, 2])  # what fills no patch is left out
        rows = op.reshape(whole, [0, height, patch[0], width, -1], special_zero=True)
        cut = op.reshape(op.transpose(rows, [0, 1, 3, 2, 4]), [0, height * width, weight[0].size], special_zero=True)
        centred = op.subtract(op.convert(cut, "f32"), np.float32(MIDDLE))
        projection = (weight * by).astype(np.float32).reshape(len(weight), -1)
        patches = op.add(op.matmul(centred, projection, transpose_a=False, transpose_b=True), bias.astype(np.float32))
        images = op.gather(op.shape_of(patches), [0], 0)
        token = op.broadcast(self._tensors["vit.embeddings.cls_token"], op.concat([images, [1, len(weight)]], 0))
        return op.add(op.concat([token, patches], 1), self._tensors["vit.embeddings.position_embeddings"])

    def block(self, hidden: ov.Node, name: str) -> ov.Node:
        """One encoder block: (b, t, f) -> (b, t, f)."""
        hidden = op.add(hidden, self._attention(self.norm(hidden, name + "layernorm_before"), name + "attention."))
        up = op.gelu(self.linear(self.norm(hidden, name + "layernorm_after"), name + "mlp.fc1"), "erf")
        return op.add(hidden, self.linear(up, name + "mlp.fc2"))

    def _attention(self, hidden: ov.Node, name: str) -> ov.Node:
        def heads(part: str) -> ov.Node:  # (b, t, f) -> (b, heads, t, f / heads)
            split = op.reshape(self.linear(hidden, f"{name}{part}_proj"), [0, 0, self._heads, -1], special_zero=True)
            return op.transpose(split, [0, 2, 1, 3])

        context = op.transpose(op.scaled_dot_product_attention(heads("q"), heads("k"), heads("v")), [0, 2, 1, 3])
        return self.linear(op.reshape(context, [0, 0, -1], special_zero=True), name + "o_proj")

    def linear(self, x: ov.Node, name: str) -> ov.Node:
        """(..., f) -> (..., outputs); the bias where there is one."""
        product = op.matmul(x, self._tensors[f"{name}.weight"], transpose_a=False, transpose_b=True)
        bias = self._tensors.get(f"{name}.bias")
        return product if bias is None else op.add(product, bias)

    def norm(self, x: ov.Node, name: str) -> ov.Node:
        """LayerNorm over the features."""
        normal = op.mvn(x, [-1], normalize_variance=True, eps=self._epsilon, eps_mode="inside_sqrt")
        return op.add(op.multiply(normal, self._tensors[f"{name}.weight"]), self._tensors[f"{name}.bias"])
