"""`python -m tests.faults.killed_at_commit ARGUMENTS`: jobs.imagenet that loses driver and actor around a commit.

KILLED_AT says when: `before` a chunk's file is written, `within` (written, not yet renamed) or `after` it is there;
KILLED_AFTER how many chunks must be committed by then.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from jobs import imagenet
from jobs.pipeline import plan
from jobs.pipeline.commit import Predictions
from jobs.running.command import run


@dataclass(frozen=True)
class Deadly(Predictions):
    """Predictions whose commit is the last thing that driver and actor live to see."""

    driver: int = field(default_factory=os.getpid)
    moment: str = field(default_factory=lambda: os.environ["KILLED_AT"])
    after: int = field(default_factory=lambda: int(os.environ["KILLED_AFTER"]))

    def __getstate__(self) -> dict[str, Any]:
        return {"out": self.out, "driver": self.driver, "moment": self.moment, "after": self.after}

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
    from tests.faults import killed_at_commit as importable  # by its importable name, so that actors can unpickle it

    with patch.object(plan, "Predictions", importable.Deadly):
        run(imagenet.main)
