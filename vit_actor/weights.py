"""A checkpoint's tensors in the layout the graph multiplies with: folded, grouped and padded, still on the host."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad

from vit_actor.config import VitConfig
from vit_actor.geometry import TILE, Geometry
from vit_actor.preprocess import Preprocess

CENTRE = 128  # Subtracted from every uint8 pixel on the device: the result is exact in bfloat16 and nearly zero-mean
LARGEST_SCORE = 88.0  # exp(88.7) is the largest float32, and bfloat16 has the same exponents


@dataclass(frozen=True)
class Part[T]:
    """Of a linear layer y = x @ weight + bias: weight (inputs, outputs), bias (1, outputs). Of a LayerNorm: each (1, hidden)."""

    weight: T
    bias: T


@dataclass(frozen=True)
class Layer[T]:
    """One encoder block. `qkv` has outputs (heads, [query, key, value], head size), head after head; for fused attention
    ([query, key, value], heads, head size)."""

    norm_before: Part[T]
    qkv: Part[T]
    projection: Part[T]
    norm_after: Part[T]
    mlp_up: Part[T]
    mlp_down: Part[T]


@dataclass(frozen=True)
class Weights[T]:
    """All of a ViT for one chip: float32 torch tensors on the host, or ttnn tensors on a mesh.

    patches: (pixels, hidden), multiplies centred pixels; normalisation is folded in.
    tokens: (padded tokens, hidden), added to every image's embeddings. Row 0 is the class token, the
        following hold the patch bias and what normalisation adds; all hold their position. Pad rows are 0.
    mask: (images, 1, 32, padded tokens), added to attention scores: 0 on tokens, -1e9 on padding. The softmax
        kernel wants it per image and a tile high; fused attention wants (1, 1, padded tokens, padded tokens).
    classifier: padded with zeros to a number of classes that divides over the grid.
    """

    patches: T
    tokens: T
    mask: T
    layers: tuple[Layer[T], ...]
    norm: Part[T]
    classifier: Part[T]


def arrange(
    tensors: Mapping[str, np.ndarray | torch.Tensor], config: VitConfig, preprocess: Preprocess, size: Geometry
) -> Weights[torch.Tensor]:
    """A checkpoint's tensors (`Checkpoint.tensors`, which load_checkpoint has checked) laid out for `size`."""
    named = {name: torch.as_tensor(tensor).float() for name, tensor in tensors.items()}
    patches, shift = _fold_normalisation(named["vit.embeddings.patch_embeddings.projection.weight"], preprocess)
    tokens = named["vit.embeddings.position_embeddings"][0].clone()
    tokens[0] += named["vit.embeddings.cls_token"][0, 0]
    tokens[1:] += named["vit.embeddings.patch_embeddings.projection.bias"] + shift
    mask = torch.zeros(*((1, 1, size.padded_tokens) if size.fused_attention else (size.images, 1, TILE)), size.padded_tokens)
    mask[..., size.tokens :] = -1e9
    classifier = _linear(named, "classifier")
    pad_classes = (0, size.padded_classes - size.classes)
    return Weights(
        patches=pad(patches, (0, 0, 0, size.pixels - len(patches))),
        tokens=pad(tokens, (0, 0, 0, size.padded_tokens - size.tokens)),
        mask=mask,
        layers=tuple(_layer(named, f"vit.layers.{index}.", size) for index in range(config.num_hidden_layers)),
        norm=_norm(named, "vit.layernorm"),
        classifier=Part(pad(classifier.weight, pad_classes), pad(classifier.bias, pad_classes)),
    )


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """float32 rounded to the nearest with `bits` significant bits, of which the matrix unit then cuts off nothing."""
    fraction, exponent = torch.frexp(weight)
    return torch.ldexp(torch.round(fraction * 2**bits) / 2**bits, exponent)


def steep(weights: Weights[torch.Tensor], size: Geometry) -> bool:
    """Whether attention scores may exceed 88, where exp overflows float32 and the softmax must subtract the largest first.

    A head with query (A, a) and key (B, b) gives two normalised tokens x and y the score (x A + a) . (y B + b) / sqrt(head size).
    For x and y of independent unit features its mean is a . b and its variance |A B'|^2 + |A b|^2 + |B a|^2. Trained heads reach
    far beyond that spread, so 88 must be nine deviations away. If a score overflows all the same, the image becomes an error.
    """
    for layer in weights.layers:
        joined = layer.norm_before.weight.T * layer.qkv.weight, layer.norm_before.bias @ layer.qkv.weight + layer.qkv.bias
        shape = (3, size.heads, size.head_size) if size.fused_attention else (size.heads, 3, size.head_size)
        weight, bias = (part.double().unflatten(1, shape) for part in joined)
        if not size.fused_attention:
            weight, bias = weight.transpose(1, 2), bias.transpose(1, 2)
        for head in range(size.heads):
            query, key, a, b = weight[:, 0, head], weight[:, 1, head], bias[0, 0, head], bias[0, 1, head]
            variance = ((query.T @ query) * (key.T @ key)).sum() + (query @ b).square().sum() + (key @ a).square().sum()
            if (abs(a @ b) + 9 * variance.sqrt()) * size.head_size**-0.5 > LARGEST_SCORE:
                return True
    return False


def _fold_normalisation(projection: torch.Tensor, preprocess: Preprocess) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch projection (hidden, 3, patch, patch) -> weight (patch * patch * 3, hidden) for centred pixels, shift (hidden).

    projection . (pixel * scale + shift)  =  (projection * scale) . (pixel - CENTRE)  +  projection . (CENTRE * scale + shift)
    """
    scale, shift = torch.tensor([preprocess.scale, preprocess.shift]).double()[:, :, None, None]
    exact = projection.double()
    weight = (exact * scale).permute(2, 3, 1, 0).flatten(0, 2)
    constant = (exact * (CENTRE * scale + shift)).sum(dim=(1, 2, 3))
    return weight.float().contiguous(), constant.float()


def _layer(named: dict[str, torch.Tensor], prefix: str, size: Geometry) -> Layer[torch.Tensor]:
    qkv = [_linear(named, f"{prefix}attention.{part}_proj") for part in "qkv"]
    # With a group for every head each core splits its own heads; the op that splits them out of DRAM wants a single group.
    groups = 1 if size.fused_attention else size.heads

    def joined(tensors: list[torch.Tensor]) -> torch.Tensor:  # query key value of group 0, query key value of group 1, ...
        return torch.stack([tensor.unflatten(1, (groups, -1)) for tensor in tensors], dim=2).flatten(1)

    return Layer(
        norm_before=_norm(named, prefix + "layernorm_before"),
        qkv=Part(joined([part.weight for part in qkv]), joined([part.bias for part in qkv])),
        projection=_linear(named, prefix + "attention.o_proj"),
        norm_after=_norm(named, prefix + "layernorm_after"),
        mlp_up=_linear(named, prefix + "mlp.fc1"),
        mlp_down=_linear(named, prefix + "mlp.fc2"),
    )


def _linear(named: dict[str, torch.Tensor], name: str) -> Part[torch.Tensor]:
    weight = named[f"{name}.weight"].T.contiguous()
    return Part(weight, named.get(f"{name}.bias", torch.zeros(weight.shape[1]))[None])


def _norm(named: dict[str, torch.Tensor], name: str) -> Part[torch.Tensor]:
    return Part(named[f"{name}.weight"][None], named[f"{name}.bias"][None])
