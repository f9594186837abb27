"""The graph's answers on the mock against transformers' in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import ViTForImageClassification

from tests.mock_t3000.golden import Goldens
from vit_actor.geometry import geometry
from vit_actor.preprocess import Preprocess
from vit_actor.weights import arrange


def plain_preprocess(side: int) -> Preprocess:
    """What google/vit-base-patch16-224 asks for: pixels to -1..1."""
    return Preprocess.from_config({"size": {"height": side, "width": side}})


def random_images(count: int, side: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, side, side, 3), smooth enough that images differ in more than noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 3, 4, 4), generator=generator).float()
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    noisy = smooth + 20 * torch.randn(count, 3, side, side, generator=generator)
    return noisy.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def reference_logits(model: ViTForImageClassification, images: np.ndarray, preprocess: Preprocess) -> torch.Tensor:
    """transformers' float32 logits (n, classes)."""
    pixels = torch.from_numpy(images).float() * torch.tensor(preprocess.scale) + torch.tensor(preprocess.shift)
    return model(pixels.permute(0, 3, 1, 2)).logits


@torch.no_grad()
def mock_logits(
    model: ViTForImageClassification,
    images: np.ndarray,
    mesh: Any,
    *,
    rounding: bool,
    change: Any = lambda weights, staging: weights,
) -> tuple[torch.Tensor, Goldens]:
    """Logits (n, classes) of up to 8 images on one chip, all chips being given the same; and what ran.

    change: takes the arranged weights and the filled Staging, and returns the weights to use.
    """
    import ttnn

    from vit_actor.staging import Staging
    from vit_actor.ttnn_vit import place, plan, vit

    size = geometry(model.config, images_per_chip=8)
    weights = arrange(model.state_dict(), model.config, plain_preprocess(size.image_size), size)
    padded = np.zeros((size.images, *images.shape[1:]), np.uint8)
    padded[: len(images)] = images
    staging = Staging(size, mesh)
    staging.put(np.tile(padded, (mesh.get_num_devices(), 1, 1, 1)))
    weights = change(weights, staging)
    with Goldens(rounding=rounding) as goldens:
        program = plan(size)
        arrivals = ttnn.allocate_tensor_on_device(staging.host.spec, mesh)
        ttnn.copy_host_to_device_tensor(staging.host, arrivals)
        pixels = ttnn.to_memory_config(arrivals, program.pixels_memory)
        goldens.ops.clear()
        logits = ttnn.to_torch(vit(pixels, place(weights, mesh), program))
    return logits[: len(images), 0, : size.classes], goldens


def centred_pcc(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Correlation after the batch mean is removed: a model that ignores its input scores nothing for its bias."""
    pair = torch.stack([(part - part.mean(0)).flatten() for part in (logits.double(), expected.double())])
    return torch.corrcoef(pair)[0, 1].item()
