"""Processes of this machine, found by what they are called and by their environment."""

import re
from contextlib import suppress
from pathlib import Path


def processes(pattern: str, variable: str = "") -> dict[int, str]:
    """Command lines, by process id, that match a regular expression; only of those with this NAME=value in their environment."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended
            line = (process / "cmdline").read_text(errors="replace").replace("\0", " ")
            if re.search(pattern, line) and variable.encode() in [b"", *(process / "environ").read_bytes().split(b"\0")]:
                found[int(process.name)] = line
    return found
