"""Check the chips of a mesh while it works: more and more seldom up to every minute, whenever it is idle, and at its end."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import ray

from jobs.pipeline.event_log import EventLog
from jobs.pipeline.ray_internals import draining_nodes
from vit_actor.actor import DeviceThread
from vit_actor.errors import DeviceError

IDLE_SECONDS = 0.5  # Between two looks whether it has nothing to do: a check then costs nothing, and may be the last
FIRST_SECONDS = 10.0  # From opening to the first one: 0.24% of it
DRAIN_SECONDS = 10.0  # Between two questions whether the host drains; with 1,000 meshes the cluster answers 100 a second
LAST_SECONDS = 3.0  # For the last chunks to be committed and reported, after the device has answered


class MeshChecks:
    """begun: how many checks have been begun since the opening, which is not counted; None of a device without chips."""

    def __init__(self, device: DeviceThread, ledger: Any, mesh: str, lose: Callable[[DeviceError], NoReturn]) -> None:
        """lose: called when a check fails."""
        self._device, self._ledger, self._mesh, self._lose = device, ledger, mesh, lose
        self._turn, self._ended = threading.Lock(), threading.Event()
        self.begun = 0 if device.chips else None
        self._images = 0

    def check(self, last: bool = False) -> None:
        """As `attempt`, but a mesh that fails is lost."""
        try:
            self.attempt(last)
        except DeviceError as error:
            self._lose(error)

    def attempt(self, last: bool) -> None:
        """One check, told to the ledger when it has passed; none after the last. Raises DeviceError."""
        with self._turn:
            if self.begun is None or self._ended.is_set():
                return
            if last:
                self._ended.set()
            self.begun, self._images = self.begun + 1, self._device.images
            self._device.check()
            ray.get(self._ledger.passed.remote(self._mesh, self.begun))

    def keep_on(self, seconds: float) -> None:
        """Check what was answered since the check before, from a thread, until the last one: now and then, and when idle."""

        def run() -> None:
            wait, last = min(FIRST_SECONDS, seconds), time.monotonic()
            while not self._ended.wait(min(IDLE_SECONDS, wait)):
                due = self._device.idle or time.monotonic() - last >= wait
                if not due or self._device.images == self._images:  # nothing new to prove
                    continue
                try:
                    self.check()
                except ray.exceptions.RayActorError:  # the driver is gone
                    return
                except Exception as error:  # else the mesh would go on without checks
                    self._lose(DeviceError(f"its chips cannot be checked: {type(error).__name__}: {error}"))
                wait, last = min(2 * wait, seconds), time.monotonic()

        if self.begun is not None:
            threading.Thread(target=run, name="checks", daemon=True).start()

    def leave_when_drained(self, alone: AbstractContextManager[None], log: EventLog) -> None:
        """From a thread, end this actor's process between two chunks once its host is being drained (`ray drain-node`).

        alone: a block that begins when no chunk is on the device, and in which none is put there. Ray then starts the actor on
        other boards, at once or when a mesh has run out of work, and hands it what had not begun.
        """
        if not (draining := draining_nodes()):
            return

        def watch() -> None:
            node = ray.get_runtime_context().get_node_id()
            while node not in draining():
                time.sleep(DRAIN_SECONDS)
            log.info("host drains")
            with alone:
                self.check(last=True)
                time.sleep(LAST_SECONDS)
                log.info("mesh drained")
                os._exit(0)

        threading.Thread(target=watch, name="drain", daemon=True).start()
