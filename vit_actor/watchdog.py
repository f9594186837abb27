"""A limit on what cannot be interrupted: opening chips holds Python's lock, so no thread of this process could give it up."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Ends with its standard input, which the process it watches closes when the block ends, or by dying.
_WATCH = """
import os, select, signal, sys
watched = int(sys.argv[1])
if not select.select([0], [], [], float(sys.argv[2]))[0] and os.getppid() == watched:
    os.write(2, ("error: " + sys.argv[3] + "\\n").encode())
    os.kill(watched, signal.SIGKILL)
"""


@contextmanager
def killed_after(seconds: float, reason: str) -> Iterator[None]:
    """Kill this process, with `reason` as a line on its standard error, when the block takes longer than `seconds`."""
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(os.getpid()), str(seconds), reason]
    with subprocess.Popen(command, stdin=subprocess.PIPE):  # at its end it closes the standard input and waits
        yield
