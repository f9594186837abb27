"""A device's logits before they become five classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


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
