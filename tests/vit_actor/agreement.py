"""The graph's answers on the mock against transformers' in float32."""

import json
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from tests.commands import ROOT
from tests.mock_t3000.golden import Goldens
from vit_actor.config import VitConfig
from vit_actor.geometry import geometry
from vit_actor.preprocess import Preprocess
from vit_actor.weights import arrange

SAMPLE = ROOT / "jobs" / "sample"


def as_read(config: ViTConfig) -> VitConfig:
    """transformers' configuration as the project reads it from a checkpoint's config.json."""
    return VitConfig.from_json(json.loads(config.to_json_string(use_diff=False)))


def random_vit(**sizes: Any) -> ViTForImageClassification:
    """transformers' model with random weights and biases, ViT-Base in what is not given."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**sizes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # transformers starts them at zero, where nothing can go wrong
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def plain_preprocess(side: int) -> Preprocess:
    """What google/vit-base-patch16-224 asks for: pixels to -1..1."""
    return Preprocess.from_config({"size": side})


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
    precision: Literal["fast", "accurate"] = "accurate",
    images_per_chip: int = 8,
    change: Callable[[Any, Any], Any] = lambda weights, staging: weights,
) -> tuple[torch.Tensor, Goldens]:
    """Logits (n, classes) of n images, and what ran for the last batch.

    Up to `images_per_chip` go to all chips alike, which are then computed once; more are spread over the chips.
    change: takes the arranged weights and the filled Staging, and returns the weights to use.
    """
    import ttnn

    from vit_actor.staging import Staging
    from vit_actor.ttnn_vit import place, plan, vit

    config, preprocess = as_read(model.config), plain_preprocess(model.config.image_size)
    size, chips = geometry(config, images_per_chip), mesh.get_num_devices()
    program, staging = plan(size, precision), Staging(size, mesh)
    alike = len(images) <= size.images
    shown, copies = (size.images, chips) if alike else (size.images * chips, 1)
    weights, logits = None, []
    with Goldens(rounding=rounding) as goldens:
        arrivals = ttnn.allocate_tensor_on_device(staging.host.spec, mesh)
        for batch in np.split(images, range(size.images * chips, len(images), size.images * chips)):
            staging.put(np.tile(np.resize(batch, (shown, *images.shape[1:])), (copies, 1, 1, 1)))
            weights = weights or place(change(arrange(model.state_dict(), config, preprocess, size), staging), mesh, program)
            ttnn.copy_host_to_device_tensor(staging.host, arrivals)
            goldens.ops.clear()
            answer = ttnn.to_torch(vit(arrivals, weights, program), mesh_composer=ttnn.ConcatMeshToTensor(mesh, dim=0))
            logits.append(answer[: len(batch), 0, : size.classes])
    return torch.cat(logits), goldens


def centred_pcc(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Correlation after the batch mean is removed: a model that ignores its input scores nothing for its bias."""
    pair = torch.stack([(part - part.mean(0)).flatten() for part in (logits.double(), expected.double())])
    return torch.corrcoef(pair)[0, 1].item()


def digits(every: int = 1) -> tuple[np.ndarray, torch.Tensor]:
    """The bundled images as uint8 (n, 64, 64, 3), and their labels; of each `every` images the first."""
    files = sorted((SAMPLE / "images").glob("*/*.jpeg"))[::every]
    images = [np.asarray(Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)) for file in files]
    return np.stack(images), torch.tensor([int(file.parent.name) for file in files])


def assert_digits_as_expected(classes: torch.Tensor, expected: torch.Tensor, labels: torch.Tensor) -> None:
    """Classes (n,) are those of transformers' logits wherever its first two are 0.1 apart, and about as often right."""
    first, second = torch.softmax(expected, 1).topk(2).values.T
    clear, reference = first - second > 0.1, expected.argmax(1)
    assert clear.double().mean() > 0.9
    assert (classes == reference)[clear].all()
    assert abs((classes == labels).double().mean() - (reference == labels).double().mean()) <= 0.005
