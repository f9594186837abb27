"""One run at a time in an output directory on a disk: a lock file, held until the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os

from pyarrow.fs import LocalFileSystem

from jobs.pipeline.storage import open_storage, shown, storage_errors
from vit_actor.errors import UserError

_held: dict[str, int] = {}


def busy(out: str) -> UserError:
    """What to say when another run has `out`."""
    return UserError(f"--out {shown(out)}: another job is writing there now; wait for it, or choose another --out")


def hold_output(out: str) -> None:
    """Keep other processes, on all hosts that share the disk, from running into `out`; again is no fault.

    On an object store nothing is locked. Raises UserError while another process holds it.
    """
    filesystem, path = open_storage(out)
    if not isinstance(filesystem, LocalFileSystem) or path in _held:
        return
    with storage_errors(out):
        os.makedirs(path, exist_ok=True)
        lock = os.open(f"{path}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise busy(out) from None
    _held[path] = lock
