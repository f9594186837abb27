"""Where a job's time goes, from its start to its reports."""

import os
import time
from pathlib import Path

PHASES = {
    "start": "imports, survey, Ray",
    "open": "opening and compiling the first device, up to its first batch",
    "stream": "reading, decoding and classifying, to the last commit",
    "end": "meshes closed, Ray ended",
    "report": "counting and drawing",
}
"""In their order, each with what it holds."""


class Phases:
    """Seconds by phase; each begins where the one before it ended, the first at a Unix time."""

    def __init__(self, began: float) -> None:
        self.seconds: dict[str, float] = {}
        self._since = began

    def end(self, phase: str, at: float | None = None) -> None:
        """The phase ends now, or ended at a Unix time."""
        until = max(self._since, time.time() if at is None else at)
        self.seconds[phase] = round(until - self._since, 3)
        self._since = until


def process_began() -> float:
    """When the kernel started this process, in Unix seconds."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    after_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot)
