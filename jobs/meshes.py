"""Actors that drive a device with random images and nothing else: what the device can do when nothing feeds it."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from jobs.pipeline.classify import mesh_name
from jobs.placement import BOARDS, Placement
from vit_actor.device import Device


@dataclass(frozen=True)
class Work:
    """How long to drive a device: until all three are reached. warmup: iterations before the clock starts, at least 1."""

    seconds: float
    images: int
    iterations: int
    warmup: int


@dataclass(frozen=True)
class Measured:
    """What one mesh did.

    started_at: Unix seconds at which each iteration (one batch) was taken, float64 (iterations,).
    seconds: wall time of each iteration, float64 (iterations,), completion to completion.
    began_at, ended_at: Unix seconds of the first start and the last completion.
    host_seconds: CPU time of the thread that drives the device, over all iterations: what overlap has to hide.
    """

    mesh: str
    description: str
    batch_size: int
    compile_seconds: float
    started_at: np.ndarray
    seconds: np.ndarray
    began_at: float
    ended_at: float
    host_seconds: float

    @property
    def images(self) -> int:
        return len(self.seconds) * self.batch_size

    @property
    def fps(self) -> float:
        """Images per second of this mesh, first start to last completion."""
        return self.images / (self.ended_at - self.began_at)


class Mesh:
    """The actor's body: a device, and one batch of random images made once.

    shape: (height, width, 3) of an image. seed: of the random images, so that a run can be repeated.
    """

    def __init__(self, open_device: Callable[[], Device], shape: tuple[int, int, int], seed: int) -> None:
        self._mesh = mesh_name(socket.gethostname())
        self._device = open_device()
        self._compile_seconds = self._device.compile()
        self.batch_size = self._device.batch_size
        self._images = np.random.default_rng(seed).integers(0, 256, (self.batch_size, *shape), dtype=np.uint8)

    def name(self) -> str:
        return self._mesh

    def drive(self, work: Work) -> Measured:
        """Classify the same batch over and over; raises DeviceError when the device fails."""
        results = []
        clock = cpu = 0.0

        def batches() -> Iterator[np.ndarray]:
            yield from itertools.repeat(self._images, work.warmup)
            for asked in itertools.count():
                enough = asked >= work.iterations and asked * self.batch_size >= work.images
                if enough and clock and time.monotonic() - clock >= work.seconds:
                    return
                yield self._images

        for answered, result in enumerate(self._device.classify(batches()), 1):
            if answered == work.warmup:
                clock, cpu = time.monotonic(), time.thread_time()
            elif answered > work.warmup:
                results.append(result)
        host_seconds = time.thread_time() - cpu
        end = time.time()
        return Measured(
            mesh=self._mesh,
            description=self._device.description,
            batch_size=self.batch_size,
            compile_seconds=self._compile_seconds,
            started_at=np.array([result.started_at for result in results]),
            seconds=np.array([result.seconds for result in results]),
            # With batches in flight the first timed one was taken before the warm-up's last answer; its time starts there.
            began_at=end - sum(result.seconds for result in results),
            ended_at=end,
            host_seconds=host_seconds,
        )

    def close(self) -> None:
        self._device.close()


def start_meshes(placement: Placement, open_device: Callable[[], Device], shape: tuple[int, int, int], seed: int) -> list[Any]:
    """Handles of placement.actors meshes, compiled and ready; raises what opening raised."""
    options = {"num_cpus": placement.cpus, "resources": {BOARDS: placement.boards} if placement.boards else None}
    meshes = [
        ray.remote(Mesh).options(scheduling_strategy="SPREAD", **options).remote(open_device, shape, seed + i)
        for i in range(placement.actors)
    ]
    ray.get([mesh.name.remote() for mesh in meshes])
    return meshes


def drive_together(meshes: list[Any], work: Work) -> list[Measured]:
    """Drive meshes at the same time."""
    return ray.get([mesh.drive.remote(work) for mesh in meshes])


def system_fps(measured: list[Measured]) -> float:
    """Images per second of the whole system: all images over the span from the first start to the last completion."""
    span = max(m.ended_at for m in measured) - min(m.began_at for m in measured)
    return sum(m.images for m in measured) / span
