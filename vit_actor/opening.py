"""From what a job asks for to a device, on the host that has it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from vit_actor.device import Device
from vit_actor.errors import DeviceError, UserError
from vit_actor.geometry import IMAGES_PER_CHIP

if TYPE_CHECKING:
    from vit_actor.checkpoint import Checkpoint

PRECISIONS = {"t3000": ("auto", "fast", "accurate"), "cpu": ("auto", "fp32"), "simulated": ("auto",)}
"""What `--precision` may be, by device."""
Precision = Literal["auto", "fp32", "fast", "accurate"]


def check_precision(device: str, precision: str) -> None:
    """Raises UserError when the device does not compute at that precision."""
    if precision not in PRECISIONS[device]:
        raise UserError(f"--precision {precision}: device {device} takes {' or '.join(PRECISIONS[device])}")


@dataclass(frozen=True)
class DeviceRequest:
    """A device for a checkpoint; small and picklable, opened by calling it.

    name, path, digest, classes: of the checkpoint, as the driver saw it; path is tried first, then name.
    batch_size: images per batch on CPU, and on simulation without images_per_chip. threads: CPU threads to compute with.
    images_per_chip: of boards, and of the eight chips of a simulation; None for IMAGES_PER_CHIP.
    precision: auto and fp32 on CPU, auto, fast and accurate on boards (`check_precision`).
    simulate: the timing of a simulated device (SimulatedTiming.from_spec).
    held: the classes the data has, where these are not all (BatchResult.held).
    open_seconds: how long the chips of boards may take to come up.
    """

    device: str
    name: str
    path: Path
    digest: str
    classes: int
    batch_size: int = 64
    images_per_chip: int | None = None
    threads: int = 1
    precision: Precision = "auto"
    simulate: str = ""
    held: tuple[int, ...] | None = None
    open_seconds: float = 120.0

    @classmethod
    def of(cls, checkpoint: "Checkpoint", device: str, **options: Any) -> Self:
        """Of a checkpoint that the driver has loaded; options are the other fields."""
        return cls(device, checkpoint.name, checkpoint.path, checkpoint.digest, checkpoint.config.num_labels, **options)

    def __call__(self) -> Device:
        """Open it. Raises UserError or DeviceError, in one line, when the checkpoint or the hardware is not there."""
        # Imports are the most of an actor's start, so each device has only its own: a simulated one needs no PyTorch.
        if self.device == "simulated":
            from vit_actor.simulated import SimulatedTiming, SimulatedVit

            timing = SimulatedTiming.from_spec(self.simulate)
            batch_size = 8 * self.images_per_chip if self.images_per_chip else self.batch_size
            return SimulatedVit(timing, classes=self.classes, batch_size=batch_size)
        from vit_actor.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(str(self.path) if self.path.is_dir() else self.name)
        if checkpoint.digest != self.digest:
            raise DeviceError(f"checkpoint {self.name} differs between this host and the driver's; copy the same files to both")
        if self.device == "t3000":
            own_kernel_cache()
            from vit_actor.t3000 import T3000Vit

            return T3000Vit(
                checkpoint,
                precision=self.precision,
                images_per_chip=self.images_per_chip or IMAGES_PER_CHIP,
                held=self.held,
                open_seconds=self.open_seconds,
            )
        from vit_actor.cpu_vit import CpuVit

        return CpuVit(checkpoint, batch_size=self.batch_size, threads=self.threads, precision=self.precision, held=self.held)


def cache_directory() -> Path:
    """Where ttnn keeps its kernels: TT_METAL_CACHE, or the user's cache directory."""
    return Path(os.environ.get("TT_METAL_CACHE") or Path.home() / ".cache")


def own_kernel_cache(devices: Path = Path("/dev/tenstorrent")) -> None:
    """Name a directory of its boards' own in TT_METAL_CACHE, where this process has some of the host's boards and others may open
    the rest: processes that compile into one directory at the same time break each other's kernels."""
    mine = os.environ.get("TT_VISIBLE_DEVICES", "")
    all_boards = sum(name.isdigit() for name in os.listdir(devices)) if devices.is_dir() else 0
    if mine and len(mine.split(",")) < all_boards:
        root, own = cache_directory(), f"boards-{mine.replace(',', '-')}"
        if root.name != own:
            os.environ["TT_METAL_CACHE"] = str(root / own)
