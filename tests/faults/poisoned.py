"""`python -m tests.faults.poisoned ARGUMENTS`: jobs.imagenet on devices that take their process down over one image."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from jobs import imagenet
from jobs.running.command import run
from jobs.settings import ImagenetSettings, Settings
from vit_actor.device import BatchResult, Device
from vit_actor.opening import DeviceRequest


def flat() -> bytes:
    """The deadly image, a JPEG of one colour that no picture of the tests has all over."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 255)).save(out, "JPEG", quality=100)
    return out.getvalue()


class DeadlyDevice:
    """Another device, killed with its process by a batch that holds the deadly image."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.batch_size, self.shape = device.batch_size, device.shape
        self.chips, self.tolerance, self.reference = device.chips, device.tolerance, device.reference
        self.start = device.start
        self.description = device.description

    def compile(self) -> float:
        return self._device.compile()

    def classify(self, batches: Iterable[np.ndarray | None]) -> Iterator[BatchResult]:
        return self._device.classify(self._survived(batches))

    def close(self) -> None:
        self._device.close()

    @staticmethod
    def _survived(batches: Iterable[np.ndarray | None]) -> Iterator[np.ndarray | None]:
        for batch in batches:
            if batch is not None and (np.abs(batch.astype(np.int16) - (255, 0, 255)).max(axis=(1, 2, 3)) < 8).any():
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


@dataclass(frozen=True)
class PoisonedRequest:
    request: DeviceRequest

    def __call__(self) -> Device:
        return DeadlyDevice(self.request())


def poisoned(*arguments: Any, **named: Any) -> PoisonedRequest:
    return PoisonedRequest(Settings.request(*arguments, **named))


if __name__ == "__main__":
    from tests.faults import poisoned as importable  # by its importable name, so that actors can unpickle the request

    with patch.object(ImagenetSettings, "request", importable.poisoned):
        run(imagenet.main)
