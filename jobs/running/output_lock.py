"""One run at a time in an output: on a disk a lock file, held until the process ends, however it ends; in a bucket a lease."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from pyarrow.fs import FileSystem, LocalFileSystem

from jobs.running.stopping import FAILED, end_at_once
from jobs.storage.address import below, parent, shown
from jobs.storage.failure import Gone, Refused, StorageError, patiently, storage_errors
from jobs.storage.files import OBJECT_STORES, open_storage
from jobs.storage.s3 import object_store
from vit_actor.errors import UserError

RENEW_SECONDS = 5.0  # Between two renewals of a lease, and two looks at a lock file
STALE_SECONDS = 20.0  # Seconds without renewal after which a lease has expired. The resume of a killed driver waits for that.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a filesystem without locks answers: Lustre by default, some NFS mounts."""
ABSENT = ("FileNotFoundError", "NotFoundError")  # Exceptions, some of obstore's, for what is not there

_held: dict[str, _Lock | None] = {}
"""This process's locks, by path; None while one is being taken, and where nothing can be locked."""
_CLAIMING = threading.Lock()


class Taken(UserError):
    """Another job has the output."""


def busy(out: str) -> Taken:
    """What to say when another run has `out`."""
    return Taken(f"--out {shown(out)}: another job is writing there now; wait for it, or choose another --out")


@contextmanager
def hold_output(out: str) -> Iterator[None]:
    """Keep other jobs, of this process and on all hosts that share the disk or the bucket, out of `out` until the block ends.

    Raises Taken while another job has it, StorageError where it cannot be locked. On filesystems of fsspec's other processes
    are not kept out. A lock that is lost later ends the process, in one line.
    """
    filesystem, path = open_storage(out)
    with _CLAIMING:
        if path in _held:
            raise busy(out)
        _held[path] = None
    try:
        _held[path] = _lock(filesystem, out, path)
        yield
    finally:
        if lock := _held[path]:
            lock.release()
        del _held[path]


def check_held(out: str) -> None:
    """Raise Taken where this process has lost the output, StorageError where that cannot be told."""
    if lock := _held.get(open_storage(out)[1]):
        patiently(lock.look, out)


def _lock(filesystem: FileSystem, out: str, path: str) -> _Lock | None:
    if isinstance(filesystem, LocalFileSystem):
        made = not os.path.exists(path)
        if (file := _locked_file(out, f"{path}/.lock")) is not None:
            return _LockFile(out, path, file, made)
    elif filesystem.type_name not in OBJECT_STORES:
        return None
    return _Lease(out)


class _Lock:
    """Looks at itself now and then from a thread; once it is lost, it ends the process: another one may be writing already.

    expires: whether it is lost too when nobody can look at it for STALE_SECONDS.
    """

    expires = False

    def __init__(self, out: str) -> None:
        self._out = out
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="output lock", daemon=True)
        self._watching.start()

    def look(self) -> None:
        """Raise Taken where another job has it, StorageError where that cannot be told."""
        raise NotImplementedError

    def release(self) -> None:
        """Give it back."""
        self._ended.set()
        self._watching.join(STALE_SECONDS)  # else a renewal under way could put a lease back

    def _watch(self) -> None:
        sure, lost = time.monotonic(), ""
        while not lost and not self._ended.wait(RENEW_SECONDS):
            began = time.monotonic()
            try:
                self.look()
                sure = began
            except Taken as taken:
                lost = str(taken)
            except StorageError as error:
                silent = time.monotonic() - sure
                if self.expires and silent > STALE_SECONDS - RENEW_SECONDS:
                    lost = f"its lease could not be renewed for {silent:.0f} s ({error})"
        if lost:
            end_at_once(f"error: {lost}; this job has stopped, what it committed stays: add --resume to go on", FAILED)


def _locked_file(out: str, path: str) -> int | None:
    """A descriptor of the lock file, locked; None on a disk without locks. Raises Taken."""
    while True:
        with storage_errors(path, "lock"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:  # the holder before has just deleted the output
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_there(file, path):
                    return file
            except OSError as error:
                os.close(file)
                if isinstance(error, BlockingIOError):
                    raise busy(out) from None
                if error.errno in NO_LOCKS:
                    return None
                raise
            os.close(file)  # the holder before has just deleted it


def _is_there(file: int, path: str) -> bool:
    """Whether an open file is the one of that name."""
    try:
        with storage_errors(path, "look at"):
            return os.path.samestat(os.stat(path), os.fstat(file))
    except Gone:
        return False


class _LockFile(_Lock):
    def __init__(self, out: str, folder: str, file: int, made: bool) -> None:
        self._folder, self._path, self._file, self._made = folder, f"{folder}/.lock", file, made
        super().__init__(out)

    def look(self) -> None:
        if not _is_there(self._file, self._path):
            raise Taken(f"{self._path}: the lock file is gone or another one, so that another job may write there")

    def release(self) -> None:
        """Give it back; an output that was made for it and holds nothing else goes too."""
        super().release()
        with suppress(OSError):
            if _is_there(self._file, self._path):
                os.unlink(self._path)
            if self._made:
                os.rmdir(self._folder)
        os.close(self._file)


class _Lease(_Lock):
    """An object that its holder writes again and again.

    On S3 every write is conditional: the object must be as this job last saw it. Elsewhere it is written, and looked at again a
    moment later: of two that take it at once the later write stays.
    """

    expires = True

    def __init__(self, out: str) -> None:
        self._out, self._address = out, below(out, ".lease")
        self._filesystem, self._path = open_storage(self._address)
        self._own, self._writes = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex} ".encode(), count()
        with storage_errors(self._address, "open"):
            self._s3 = object_store(self._address)
        self._looking = threading.Lock()
        self._seen: str | None = None  # its e-tag on S3, as this job last saw it
        self._wait_until_stale()
        patiently(self._write, self._address)
        if not self._s3:
            time.sleep(1)
            self._check_holder()
        super().__init__(out)

    def look(self) -> None:
        with self._looking:  # else one look could read what another is about to write
            if not self._s3:
                self._check_holder()
            self._write()

    def release(self) -> None:
        super().release()
        with suppress(OSError, UserError):
            self._check_holder()
            self._filesystem.delete_file(self._path)

    def _wait_until_stale(self) -> None:
        """Return at once where there is no lease; raises Taken where it is renewed."""
        found, limit = patiently(self._read, self._address), time.monotonic() + STALE_SECONDS
        while found is not None and time.monotonic() < limit:
            time.sleep(1)
            if (now := self._read()) not in (found, None):
                raise busy(self._out)
            found = now

    def _check_holder(self) -> None:
        found = self._read()
        if found is None and not self._s3:  # some stores hide for a moment what was just written
            raise Gone(f"{shown(self._address)}: the lease is gone")
        if not (found or b"").startswith(self._own):
            raise busy(self._out)

    def _read(self) -> bytes | None:
        """What it holds; None where there is none."""
        with storage_errors(self._address, "read"):
            try:
                if self._s3:
                    from obstore import get  # here, because few runs need it

                    found = get(*self._s3)
                    self._seen = found.meta["e_tag"]
                    return bytes(found.bytes())
                with self._filesystem.open_input_stream(self._path) as stream:
                    data: bytes = stream.readall()
                return data
            except Exception as error:
                if type(error).__name__ not in ABSENT:
                    raise
                self._seen = None
                return None

    def _write(self) -> None:
        """Write the lease, each time with another number in it, so that who looks sees it renewed. Raises Taken."""
        data = self._own + str(next(self._writes)).encode()
        with storage_errors(self._address, "replace" if self._seen or not self._s3 else "write"):
            if not self._s3:
                with self._filesystem.open_output_stream(self._path) as stream:
                    stream.write(data)
                return
            from obstore import put

            mode: Any = {"e_tag": self._seen} if self._seen else "create"
            try:
                self._seen = put(*self._s3, data, mode=mode)["e_tag"]
            except Exception as error:
                if type(error).__name__ not in (*ABSENT, "AlreadyExistsError", "PreconditionError"):
                    raise
                if "NoSuchBucket" in str(error):
                    raise Refused(f"{shown(parent(self._address)[0])}: no such bucket; create it, or check the name") from None
                self._check_holder()  # a write that was repeated finds itself there
