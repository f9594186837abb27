"""The ledger's part that knows which committed chunks no passed check of their mesh has followed, and which meshes stay out."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from vit_actor.errors import UserError

CHECK_SECONDS = 60.0
"""Between two checks in the long run: one batch of a T3000 takes 6 ms, 0.01% of it, and a lost mesh costs a minute of work."""

MOST_FAILED_CHECKS = 2
"""Failed checks until a mesh stays out; after the first it is opened anew."""


def check_seconds() -> float:
    """Between two checks. Raises UserError for a LOUDBOX_CHECK_SECONDS that is no time above 0."""
    text = os.environ.get("LOUDBOX_CHECK_SECONDS") or str(CHECK_SECONDS)
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise UserError(f"LOUDBOX_CHECK_SECONDS={text}: give a number of seconds above 0, such as 60")
    return float(text)


class Unchecked:
    """A chunk is *unchecked* until its mesh passes a check after it, and *doubtful* once that will not happen."""

    def __init__(self) -> None:
        self._lives: list[dict[str, Any]] = []
        self._life: dict[str, dict[str, Any]] = {}
        self._unchecked: dict[str, dict[str, int]] = {}
        self._doubtful: set[str] = set()
        self._begun: dict[str, str] = {}
        self._failures: dict[str, list[str]] = {}

    def opened(self, mesh: str, opened_at: float) -> None:
        """A process has opened a mesh and checked it once. What another one left unchecked there is doubtful."""
        self._doubt(mesh)
        self._life[mesh] = {"mesh": mesh, "opened_at": opened_at, "checks": 1, "passed": 0, "failed": []}
        self._lives.append(self._life[mesh])

    def begun(self, chunk: str, mesh: str) -> None:
        """A chunk goes to a mesh, and may be committed by a process that ends before it can say so."""
        if mesh in self._life:
            self._begun[chunk] = mesh

    def answered(self, chunk: str, mesh: str, begun: int | None) -> None:
        """A chunk is committed, with answers that were there when so many checks had been begun (MeshChecks.begun)."""
        self._doubtful.discard(chunk)
        self._begun.pop(chunk, None)
        if begun is None:
            return
        if mesh not in self._life:  # it failed meanwhile, and its process had yet to end
            self._doubtful.add(chunk)
        elif begun >= self._life[mesh]["passed"]:
            self._unchecked.setdefault(mesh, {})[chunk] = begun

    def passed(self, mesh: str, number: int) -> None:
        """All chips of a mesh have passed the check of this number: what was answered before it is right."""
        self._life[mesh] |= {"checks": number + 1, "passed": number}
        self._unchecked[mesh] = {chunk: begun for chunk, begun in self._unchecked.get(mesh, {}).items() if begun >= number}

    def failed(self, mesh: str, chips: list[str], why: str) -> None:
        """These chips of a mesh have not passed one, and its process ends."""
        if mesh not in self._life:  # the first one
            self.opened(mesh, time.time())
            self._life[mesh]["checks"] = 0
        life = self._life.pop(mesh)
        life |= {"checks": life["checks"] + 1, "failed": chips}
        self._doubt(mesh)
        self._failures.setdefault(mesh, []).append(why)

    def out(self, mesh: str) -> str | None:
        """Why a mesh is not to be opened again; None where it may."""
        failures = self._failures.get(mesh, [])
        return failures[-1] if len(failures) >= MOST_FAILED_CHECKS else None

    def hand_back(self, chunk: str) -> None:
        """A mesh that stays out was given this chunk, and leaves it to others."""
        self._begun.pop(chunk, None)
        self._doubtful.add(chunk)

    def doubtful(self, last: bool = False) -> list[str] | None:
        """Chunks to be classified again; None while some are on a mesh or to be checked. last: they are not waited for."""
        if last:
            for mesh in list(self._unchecked):
                self._doubt(mesh)
            self._doubtful |= self._begun.keys()
            self._begun.clear()
        return None if self._begun or any(self._unchecked.values()) else sorted(self._doubtful)

    def _doubt(self, mesh: str) -> None:
        self._doubtful |= self._unchecked.pop(mesh, {}).keys()
