"""Actors that drive a device with random images and nothing else: what the device can do when nothing feeds it."""

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray

from jobs.pipeline.classify import mesh_name
from jobs.pipeline.placement import BOARDS, Placement
from jobs.running.command import JobFailed, root_cause
from vit_actor.device import Device
from vit_actor.errors import UserError, ended_while_opening

PLACE_SECONDS = 60.0  # What starting the actors' processes may take on top of waiting for resources
START_DELAY = 0.5  # Seconds between the request and the start, long enough to reach every mesh, so that all start together
ANSWERS = 16  # Batches whose answers travel together; a message costs a millisecond


class Work(NamedTuple):
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
    began_at, ended_at: Unix seconds of the warm-up's last answer and of the last answer.
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
        """Images per second of this mesh between its first timed and its last answer."""
        return self.images / (self.ended_at - self.began_at)

    @property
    def latencies(self) -> np.ndarray:
        """Seconds from when the device took each batch to its answer, others before it included, float64 (iterations,)."""
        answered, found = self.began_at, []
        for started, seconds in zip(self.started_at, self.seconds, strict=True):
            answered = max(started, answered) + seconds
            found.append(answered - started)
        return np.array(found)


class Mesh:
    """The actor's body: a device, and one batch of random images made once."""

    def placed(self) -> str:
        """The mesh's name, once Ray has found it a place."""
        return mesh_name(socket.gethostname(), os.getpid())

    def open(self, open_device: Callable[[], Device], shape: tuple[int, int, int], seed: int) -> int:
        """Open and compile the device; its batch size.

        shape: (height, width, 3) of an image. seed: of the random images, so that a run can be repeated.
        """
        self._mesh = self.placed()
        self._device = open_device()
        self._compile_seconds = self._device.compile()
        self.batch_size = self._device.batch_size
        self._images = np.random.default_rng(seed).integers(0, 256, (self.batch_size, *shape), dtype=np.uint8)
        return self.batch_size

    def drive(self, work: Work, start_at: float) -> Measured:
        """Classify the same batch over and over, from a Unix time on; raises DeviceError when the device fails."""
        clock = 0.0
        time.sleep(max(0.0, start_at - time.time()))

        def batches() -> Iterator[np.ndarray]:
            yield from itertools.repeat(self._images, work.warmup)
            for asked in itertools.count():
                enough = asked >= work.iterations and asked * self.batch_size >= work.images
                if enough and clock and time.monotonic() - clock >= work.seconds:
                    return
                yield self._images

        answers = self._device.classify(batches())
        for _ in itertools.islice(answers, work.warmup):
            pass
        began_at, clock, cpu = time.time(), time.monotonic(), time.thread_time()
        results = list(answers)
        return Measured(
            mesh=self._mesh,
            description=self._device.description,
            batch_size=self.batch_size,
            compile_seconds=self._compile_seconds,
            started_at=np.array([result.started_at for result in results]),
            seconds=np.array([result.seconds for result in results]),
            began_at=began_at,
            ended_at=time.time(),
            host_seconds=time.thread_time() - cpu,
        )

    def load(self, count: int, seed: int) -> None:
        """Make a library of so many random images, the same on every mesh."""
        shape = (count, *self._images.shape[1:])
        self._library = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    def answer(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Classify images of the library, int32 (n,): their classes, int32, in order and some batches at a time."""
        size = self.batch_size
        results = self._device.classify(self._library[indices[at : at + size]] for at in range(0, len(indices), size))
        while some := [result.classes[:, 0] for result in itertools.islice(results, ANSWERS)]:
            yield np.concatenate(some)


def start_meshes(
    placement: Placement, open_device: Callable[[], Device], shape: tuple[int, int, int], *, seed: int, wait_seconds: float
) -> list[Any]:
    """Handles of placement.actors meshes, compiled and ready; mesh i has random images of seed + i.

    Raises UserError when they do not all find a place within wait_seconds, JobFailed when a device does not open.
    """
    options = {"num_cpus": placement.cpus, "resources": {BOARDS: placement.boards} if placement.boards else None}
    meshes = [ray.remote(Mesh).options(scheduling_strategy="SPREAD", **options).remote() for _ in range(placement.actors)]
    names = [mesh.placed.remote() for mesh in meshes]
    placed, missing = ray.wait(names, num_returns=len(names), timeout=wait_seconds + PLACE_SECONDS)
    if missing:
        free = f"only {len(placed)} of {len(names)} meshes were free within {wait_seconds:g} s"
        raise UserError(f"{free}; wait for other jobs, raise --wait or lower --meshes")
    opening = [mesh.open.remote(open_device, shape, seed + i) for i, mesh in enumerate(meshes)]
    _answers(opening, died=ended_while_opening(placement.device))  # a watchdog's end: opening cannot be given up otherwise
    return meshes


def drive_together(meshes: list[Any], work: Work) -> list[Measured]:
    """Drive meshes at the same time; raises JobFailed when a device fails."""
    start_at = time.time() + START_DELAY
    return _answers([mesh.drive.remote(work, start_at) for mesh in meshes])


def system_fps(measured: list[Measured]) -> float:
    """Images per second of the whole system."""
    return sum(m.images for m in measured) / system_seconds(measured)


def system_seconds(measured: list[Measured]) -> float:
    """Seconds from the first mesh's first timed batch to the last mesh's last answer; the hosts' clocks must agree."""
    return max(m.ended_at for m in measured) - min(m.began_at for m in measured)


def _answers(references: list[Any], died: str = "") -> list[Any]:
    """died: what to say of an actor that ended, if not what Ray does."""
    try:
        return ray.get(references)
    except ray.exceptions.RayError as error:
        if isinstance(error, UserError):  # Ray raises a class that is both
            raise UserError(root_cause(error)) from None
        ended = isinstance(error, ray.exceptions.ActorDiedError)
        raise JobFailed(died if died and ended else root_cause(error)) from error
