"""Check the chips of a mesh while it works: after ten seconds, after twenty more, forty more, and from then on every minute."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn

import ray

from vit_actor.actor import DeviceThread
from vit_actor.errors import DeviceError

CHECK_SECONDS = 60.0
"""Between two checks in the long run: one batch of a T3000 takes 6 ms, 0.01% of it, and a lost mesh costs a minute of work."""
FIRST_SECONDS = 10.0
"""From opening to the first one: 0.06% of it."""


class MeshChecks:
    """begun: how many checks have been begun since the opening, which is not counted; None of a device without chips."""

    def __init__(self, device: DeviceThread, ledger: Any, mesh: str) -> None:
        self._device, self._ledger, self._mesh = device, ledger, mesh
        self._turn, self._ended = threading.Lock(), threading.Event()
        self.begun = 0 if device.chips else None

    def check(self) -> None:
        """One check, told to the ledger when it has passed. Raises DeviceError."""
        if self.begun is None:
            return
        with self._turn:
            self.begun += 1
            self._device.check()
            ray.get(self._ledger.passed.remote(self._mesh, self.begun))

    def keep_on(self, seconds: float, lose: Callable[[DeviceError], NoReturn]) -> None:
        """Check from a thread until `end`. lose: called when a check fails."""

        def run() -> None:
            wait = min(FIRST_SECONDS, seconds)
            while not self._ended.wait(wait):
                try:
                    self.check()
                except DeviceError as error:
                    lose(error)
                except ray.exceptions.RayError:  # the driver is gone
                    return
                wait = min(2 * wait, seconds)

        if self.begun is not None:
            threading.Thread(target=run, name="checks", daemon=True).start()

    def end(self) -> None:
        """A last check, for what came after the latest one. Raises DeviceError."""
        self._ended.set()
        self.check()
