"""A checkpoint of ViT-Base's sizes without a download, and a device's logits before they become five classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ViTConfig, ViTForImageClassification


def random_base(directory: Path, layers: int = 12) -> Path:
    """A checkpoint directory."""
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(num_labels=1000, num_hidden_layers=layers)).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text('{"size": {"height": 224, "width": 224}}')
    return directory


def logits(device: Any, images: np.ndarray) -> torch.Tensor:
    """float32 (n, classes) of uint8 images (n, height, width, 3), from a T3000Vit."""
    import ttnn

    device.compile()
    rows = []
    for start in range(0, len(images), device.batch_size):
        batch = images[start : start + device.batch_size]
        device._staging[0].put(batch)
        answer = device._forward.start(device._staging[0].host).wait()
        answers = ttnn.to_torch(answer, mesh_composer=ttnn.ConcatMeshToTensor(device._mesh, dim=0))
        rows.append(answers[: len(batch), 0, : device._size.classes].float())
    return torch.cat(rows)
