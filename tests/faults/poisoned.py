"""`python -m tests.faults.poisoned ARGUMENTS`: jobs.imagenet whose processes die of what they are given.

A device takes its process down over one image. Where KILLED_AT is set, driver and actor die around a commit: `before` a chunk's
file is written, `within` (written, not yet renamed) or `after` it is there; KILLED_AFTER: chunks that are committed by then.
"""

import io
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from PIL import Image

from jobs import imagenet
from jobs.pipeline import plan
from jobs.pipeline.commit import Predictions
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
        self.batch_size, self.shape, self.start = device.batch_size, device.shape, device.start
        self.chips, self.tolerance, self.reference = device.chips, device.tolerance, device.reference
        self.description, self.compile, self.close = device.description, device.compile, device.close

    def classify(self, batches: Iterable[np.ndarray | None]) -> Iterator[BatchResult]:
        return self._device.classify(map(self._survived, batches))

    @staticmethod
    def _survived(batch: np.ndarray | None) -> np.ndarray | None:
        if batch is not None and (np.abs(batch.astype(np.int16) - (255, 0, 255)).max(axis=(1, 2, 3)) < 8).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return batch


@dataclass(frozen=True)
class PoisonedRequest:
    request: DeviceRequest

    def __call__(self) -> Device:
        return DeadlyDevice(self.request())


def poisoned(*arguments: Any, **named: Any) -> PoisonedRequest:
    return PoisonedRequest(Settings.request(*arguments, **named))


@dataclass(frozen=True)
class DeadlyPredictions(Predictions):
    """Predictions whose commit is the last thing that driver and actor live to see."""

    driver: int = field(default_factory=os.getpid)
    moment: str = field(default_factory=lambda: os.environ["KILLED_AT"])
    after: int = field(default_factory=lambda: int(os.environ["KILLED_AFTER"]))

    def commit(self, chunk: str, rows: pa.Table, footer: dict[str, Any]) -> None:
        due = len(list(Path(self.out, "predictions").glob("[!.]*.parquet"))) >= self.after
        if due and self.moment == "before":
            self.kill()
        if due and self.moment == "within":
            os.replace = self.kill  # type: ignore[assignment]
        super().commit(chunk, rows, footer)
        if due and self.moment == "after":
            self.kill()

    def kill(self, *renaming: str) -> None:
        os.kill(self.driver, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    from tests.faults import poisoned as importable  # by its importable name, so that actors can unpickle it

    deadly = importable.DeadlyPredictions if "KILLED_AT" in os.environ else Predictions
    with patch.object(plan, "Predictions", deadly), patch.object(ImagenetSettings, "request", importable.poisoned):
        run(imagenet.main)
