"""Ctrl-C and SIGTERM: the first lets what is in flight finish, the second ends at once."""

from __future__ import annotations

import signal
import sys
from typing import Any


class Stopping:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def code(self) -> int:
        """The exit code of a command that a signal has ended."""
        return 128 + (self.signal or 0)


def drain_on_signals(*ledgers: Any) -> Stopping:
    """From now on SIGTERM and SIGINT (Ctrl-C) let what is in flight finish and hand out nothing more; a second one ends at once.

    Installed after ray.init, which sets a handler of its own. The second raises KeyboardInterrupt.
    """
    stopping = Stopping()

    def handler(signum: int, frame: object) -> None:
        if stopping.signal is not None:
            raise KeyboardInterrupt
        stopping.signal = signum
        for ledger in ledgers:
            ledger.drain.remote()
        print("stopping: finishing what is in flight; once more to stop at once", file=sys.stderr, flush=True)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
    return stopping
