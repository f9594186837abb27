"""One run at a time in an output: on a disk a lock file, held until the process ends, however it ends; in a bucket a lease."""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from datetime import datetime

from pyarrow.fs import FileSystem, LocalFileSystem

from jobs.storage import OBJECT_STORES, open_storage, shown, storage_errors, write_atomically
from vit_actor.errors import UserError

RENEW_SECONDS = 5.0
"""Between two renewals of a lease."""
STALE_SECONDS = 20.0
"""Seconds without renewal after which a lease has expired. The resume of a killed driver waits for that."""

_held: dict[str, int | _Lease] = {}


def busy(out: str) -> UserError:
    """What to say when another run has `out`."""
    return UserError(f"--out {shown(out)}: another job is writing there now; wait for it, or choose another --out")


def hold_output(out: str) -> None:
    """Keep other processes, on all hosts that share the disk or the bucket, from running into `out`; again is no fault.

    Raises UserError while another process holds it. On filesystems of fsspec's nothing is locked.
    """
    filesystem, path = open_storage(out)
    if path in _held:
        return
    if filesystem.type_name in OBJECT_STORES:
        _held[path] = _Lease(out, filesystem, f"{path}/.lease")
    elif isinstance(filesystem, LocalFileSystem):
        _held[path] = _lock_file(out, path)


def _lock_file(out: str, path: str) -> int:
    with storage_errors(out):
        os.makedirs(path, exist_ok=True)
        lock = os.open(f"{path}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise busy(out) from None
    return lock


class _Lease:
    """An object that its holder writes again and again; who finds another's in its place stops its own run, as SIGTERM would.

    Stores differ in what they promise of conditional writes, and pyarrow offers none. So a lease is taken, and looked at again a
    moment later: of two that take it at once the later write stays. Ages are by the store's own clock.
    """

    def __init__(self, out: str, filesystem: FileSystem, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._own = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}".encode()
        with storage_errors(out):
            found = self._written_at()
            if found is not None:
                self._wait_until_stale(out, found)
            self._write()
            time.sleep(1)
            if self._holder() != self._own:
                raise busy(out)
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self._renewing.start()
        atexit.register(self._give_back)

    def _wait_until_stale(self, out: str, found: datetime) -> None:
        """Raises UserError when the lease is renewed."""
        mark = f"{self._path}.{self._own[-8:].decode()}"
        write_atomically(self._filesystem, mark, b"")  # to learn the store's time
        now = self._filesystem.get_file_info(mark).mtime or found
        self._filesystem.delete_file(mark)
        left = STALE_SECONDS - (now - found).total_seconds()
        while left > 0:
            time.sleep(min(1.0, left))
            left -= 1
            written = self._written_at()
            if written is None:  # given back
                return
            if written != found:
                raise busy(out)

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(OSError):  # the next commit says what is wrong with the store
                if self._holder() != self._own:
                    print(f"error: another job has taken {self._path} over; stopping this one", file=sys.stderr, flush=True)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._write()

    def _give_back(self) -> None:
        self._ended.set()
        self._renewing.join(STALE_SECONDS)  # else a renewal under way could put the lease back
        with suppress(OSError):
            if self._holder() == self._own:
                self._filesystem.delete_file(self._path)

    def _write(self) -> None:
        write_atomically(self._filesystem, self._path, self._own)

    def _written_at(self) -> datetime | None:
        written: datetime | None = self._filesystem.get_file_info(self._path).mtime
        return written

    def _holder(self) -> bytes:
        with self._filesystem.open_input_stream(self._path) as stream:
            holder: bytes = stream.readall()
        return holder
