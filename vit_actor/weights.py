"""A checkpoint's tensors in the layout the graph multiplies with: checked, folded, grouped and padded, still on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from vit_actor.config import VitConfig
from vit_actor.errors import UserError
from vit_actor.geometry import TILE, Geometry
from vit_actor.preprocess import Preprocess
from vit_actor.tensors import current_name, misfits

CENTRE = 128
"""Subtracted from every uint8 pixel on the device: the result is exact in bfloat16 and nearly zero-mean."""


@dataclass(frozen=True)
class Linear[T]:
    """y = x @ weight + bias. weight (inputs, outputs), bias (1, outputs)."""

    weight: T
    bias: T


@dataclass(frozen=True)
class Norm[T]:
    """LayerNorm's weight and bias, each (1, hidden)."""

    weight: T
    bias: T


@dataclass(frozen=True)
class Layer[T]:
    """One encoder block. `qkv` has outputs (heads, [query, key, value], head size), head after head."""

    norm_before: Norm[T]
    qkv: Linear[T]
    projection: Linear[T]
    norm_after: Norm[T]
    mlp_up: Linear[T]
    mlp_down: Linear[T]


@dataclass(frozen=True)
class Weights[T]:
    """All of a ViT for one chip: float32 torch tensors on the host, or ttnn tensors on a mesh.

    patches: (pixels, hidden), multiplies centred pixels; normalisation is folded in.
    tokens: (padded tokens, hidden), added to every image's embeddings. Row 0 is the class token, the
        following hold the patch bias and what normalisation adds; all hold their position. Pad rows are 0.
    mask: (images, 1, 32, padded tokens), added to attention scores: 0 on tokens, -1e9 on padding. The softmax
        kernel wants it per image and a tile high.
    classifier: padded with zeros to a number of classes that divides over the grid.
    """

    patches: T
    tokens: T
    mask: T
    layers: tuple[Layer[T], ...]
    norm: Norm[T]
    classifier: Linear[T]


def arrange(
    tensors: Mapping[str, np.ndarray | torch.Tensor], config: VitConfig, preprocess: Preprocess, size: Geometry
) -> Weights[torch.Tensor]:
    """Check a checkpoint's tensors, by any transformers version's names, and lay them out for `size`.

    Raises UserError naming every tensor that is missing, unexpected or of the wrong shape.
    """
    named = _checked(tensors, config)
    patches, shift = _fold_normalisation(named["vit.embeddings.patch_embeddings.projection.weight"], preprocess)
    pad_rows = size.padded_tokens - size.tokens
    tokens = named["vit.embeddings.position_embeddings"][0].clone()
    tokens[0] += named["vit.embeddings.cls_token"][0, 0]
    tokens[1:] += named["vit.embeddings.patch_embeddings.projection.bias"] + shift
    mask = torch.zeros(size.images, 1, TILE, size.padded_tokens)
    mask[..., size.tokens :] = -1e9
    classifier = _linear(named, "classifier")
    pad_classes = size.padded_classes - size.classes
    return Weights(
        patches=torch.nn.functional.pad(patches, (0, 0, 0, size.pixels - len(patches))),
        tokens=torch.nn.functional.pad(tokens, (0, 0, 0, pad_rows)),
        mask=mask,
        layers=tuple(_layer(named, f"vit.layers.{index}.", size) for index in range(size.layers)),
        norm=_norm(named, "vit.layernorm"),
        classifier=Linear(*(torch.nn.functional.pad(part, (0, pad_classes)) for part in (classifier.weight, classifier.bias))),
    )


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
    return Layer(
        norm_before=_norm(named, prefix + "layernorm_before"),
        qkv=_group_heads([_linear(named, f"{prefix}attention.{part}_proj") for part in "qkv"], size.heads),
        projection=_linear(named, prefix + "attention.o_proj"),
        norm_after=_norm(named, prefix + "layernorm_after"),
        mlp_up=_linear(named, prefix + "mlp.fc1"),
        mlp_down=_linear(named, prefix + "mlp.fc2"),
    )


def _group_heads(query_key_value: list[Linear[torch.Tensor]], heads: int) -> Linear[torch.Tensor]:
    """Three linears -> one whose outputs run q k v of head 0, q k v of head 1, ...: each core then splits its own heads."""

    def group(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([part.unflatten(1, (heads, -1)) for part in parts], dim=2).flatten(1)

    return Linear(group([part.weight for part in query_key_value]), group([part.bias for part in query_key_value]))


def _linear(named: dict[str, torch.Tensor], name: str) -> Linear[torch.Tensor]:
    weight = named[f"{name}.weight"].T.contiguous()
    return Linear(weight, named.get(f"{name}.bias", torch.zeros(weight.shape[1]))[None])


def _norm(named: dict[str, torch.Tensor], name: str) -> Norm[torch.Tensor]:
    return Norm(named[f"{name}.weight"][None], named[f"{name}.bias"][None])


def _checked(tensors: Mapping[str, np.ndarray | torch.Tensor], config: VitConfig) -> dict[str, torch.Tensor]:
    """The tensors in float32 by their transformers 5 names, all that the configuration calls for."""
    named = {current_name(name): torch.as_tensor(tensor).float() for name, tensor in tensors.items()}
    if faults := misfits({name: tuple(tensor.shape) for name, tensor in named.items()}, config):
        raise UserError(f"model.safetensors does not fit config.json: {'; '.join(faults)}")
    return named
