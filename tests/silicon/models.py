"""A device's rate, and its logits before they become five classes."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def rate(device: Any, batch: np.ndarray, seconds: float) -> float:
    """Images per second, from batch to batch for that long, after a quarter of it to warm up."""

    def again(seconds: float) -> Iterator[np.ndarray]:
        end = time.monotonic() + seconds  # from when the first is asked for
        while time.monotonic() < end:
            yield batch

    deque(device.classify(again(seconds / 4)), maxlen=0)
    started = time.monotonic()
    count = sum(len(result.classes) for result in device.classify(again(seconds)))
    return count / (time.monotonic() - started)


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
