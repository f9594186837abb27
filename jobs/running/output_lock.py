"""One run at a time in an output: on a disk a lock file, held until the process ends, however it ends; in a bucket a lease."""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from typing import Any

from pyarrow.fs import FileSystem, LocalFileSystem

from jobs.running.stopping import FAILED, end_at_once
from jobs.storage.address import below, parent, shown
from jobs.storage.failure import Gone, Refused, StorageError, patiently, storage_errors
from jobs.storage.files import OBJECT_STORES, delete, open_storage, write_atomically
from jobs.storage.s3 import object_store
from vit_actor.errors import UserError

RENEW_SECONDS = 5.0  # Between two renewals of a lease, and two looks at a lock file
STALE_SECONDS = 20.0  # Seconds without renewal after which a lease has expired. The resume of a killed driver waits for that.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a filesystem without locks answers: Lustre by default, some NFS mounts."""

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


def _lock(filesystem: FileSystem, out: str, path: str) -> _Lock | None:
    if isinstance(filesystem, LocalFileSystem):
        try:
            return _LockFile(out, path)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    elif filesystem.type_name not in OBJECT_STORES:
        return None
    return _Lease(out)


def check_held(out: str) -> None:
    """Raise Taken where this process has lost the output, StorageError where that cannot be told."""
    if lock := _held.get(open_storage(out)[1]):
        patiently(lock.look, out)


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
        sure = time.monotonic()
        while not self._ended.wait(RENEW_SECONDS):
            began = time.monotonic()
            try:
                self.look()
                sure = began
            except Taken as taken:
                self._end(str(taken))
                return
            except StorageError as error:
                if self.expires and time.monotonic() - sure > STALE_SECONDS - RENEW_SECONDS:
                    self._end(f"its lease could not be renewed for {time.monotonic() - sure:.0f} s ({error})")
                    return

    def _end(self, why: str) -> None:
        end_at_once(f"error: {why}; this job has stopped, what it committed stays: add --resume to go on", FAILED)


class _LockFile(_Lock):
    def __init__(self, out: str, path: str) -> None:
        self._folder, self._path, self._made = path, f"{path}/.lock", not os.path.exists(path)
        while not self._take(out):
            pass
        super().__init__(out)

    def _take(self, out: str) -> bool:
        """Lock the file; False where the holder before has deleted it meanwhile, or the output with it."""
        with storage_errors(self._path, "lock"):
            os.makedirs(self._folder, exist_ok=True)
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise busy(out) from None
        except OSError as error:
            os.close(self._file)
            if error.errno in NO_LOCKS:
                raise
            with storage_errors(self._path, "lock"):
                raise
        if not (there := self._is_there()):
            os.close(self._file)
        return there

    def release(self) -> None:
        """Give it back; an output that was made for it and holds nothing else goes too."""
        super().release()
        with suppress(OSError):
            if self._is_there():
                os.unlink(self._path)
            if self._made:
                os.rmdir(self._folder)
        os.close(self._file)

    def _is_there(self) -> bool:
        """Whether the file that was locked is the one of that name."""
        try:
            with storage_errors(self._path, "look at"):
                return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except Gone:
            return False

    def look(self) -> None:
        if not self._is_there():
            raise Taken(f"{self._path}: the lock file is gone or another one, so that another job may write there")


class _Lease(_Lock):
    """An object that its holder writes again and again.

    On S3 every write is conditional: the object must be as this job last saw it. Elsewhere it is written, and looked at again a
    moment later: of two that take it at once the later write stays. Ages are by the store's own clock.
    """

    expires = True

    def __init__(self, out: str) -> None:
        self._address = below(out, ".lease")
        self._filesystem, self._path = open_storage(self._address)
        self._own = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex} ".encode()
        self._writes = count()
        self._conditional = _ConditionalObject.of(self._address)
        self._out = out
        found = patiently(self._written_at, self._address)
        if found is not None:
            self._wait_until_stale(found)
        patiently(self._write, self._address)
        if self._conditional is None:
            time.sleep(1)
            self._check_holder()
        super().__init__(out)
        atexit.register(self.release)

    def look(self) -> None:
        if self._conditional is None:
            self._check_holder()
        self._write()

    def _wait_until_stale(self, found: datetime) -> None:
        """Raises Taken when the lease is renewed."""
        mark = f"{self._path}.{uuid.uuid4().hex[:8]}"
        write_atomically(self._filesystem, mark, b"")  # to learn the store's time
        with storage_errors(self._address, "look at"):
            now = self._filesystem.get_file_info(mark).mtime or found
        with suppress(StorageError):  # who may not delete is told so elsewhere
            delete(self._filesystem, mark)
        left = STALE_SECONDS - (now - found).total_seconds()
        while left > 0:
            time.sleep(min(1.0, left))
            left -= 1
            written = self._written_at()
            if written is None:  # given back
                return
            if written != found:
                raise busy(self._out)

    def release(self) -> None:
        super().release()
        atexit.unregister(self.release)
        with suppress(OSError, UserError):
            self._check_holder()
            self._filesystem.delete_file(self._path)

    def _write(self) -> None:
        """Write the lease, each time with another number in it, so that who looks sees it renewed. Raises Taken."""
        data = self._own + str(next(self._writes)).encode()
        if self._conditional is None:
            with storage_errors(self._address, "replace"), self._filesystem.open_output_stream(self._path) as stream:
                stream.write(data)
        elif not self._conditional.put(data):
            try:
                self._check_holder()  # a write that was repeated finds itself there
            except Gone:
                raise busy(self._out) from None
            self._conditional.look()

    def _written_at(self) -> datetime | None:
        if self._conditional is not None:
            self._conditional.look()
        with storage_errors(self._address, "look at"):
            written: datetime | None = self._filesystem.get_file_info(self._path).mtime
        return written

    def _check_holder(self) -> None:
        with storage_errors(self._address, "read"), self._filesystem.open_input_stream(self._path) as stream:
            if not stream.readall().startswith(self._own):
                raise busy(self._out)


class _ConditionalObject:
    """An object of S3 that is written only if it is as it was last seen."""

    def __init__(self, store: Any, key: str, address: str) -> None:
        self._store, self._key, self._address = store, key, address
        self._seen: str | None = None

    @classmethod
    def of(cls, address: str) -> _ConditionalObject | None:
        with storage_errors(address, "open"):
            found = object_store(address)
        return cls(*found, address) if found else None

    def look(self) -> None:
        """See the object as it is."""
        from obstore import head
        from obstore.exceptions import NotFoundError

        with storage_errors(self._address, "look at"):
            try:
                self._seen = head(self._store, self._key)["e_tag"]
            except (NotFoundError, FileNotFoundError):
                self._seen = None

    def put(self, data: bytes) -> bool:
        """Write it; False where it is not as it was seen."""
        from obstore import put
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        mode: Any = "create" if self._seen is None else {"e_tag": self._seen}
        with storage_errors(self._address, "replace" if self._seen else "write"):
            try:
                self._seen = put(self._store, self._key, data, mode=mode)["e_tag"]
            except (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise Refused(f"{shown(parent(self._address)[0])}: no such bucket; create it, or check the name") from None
                return False
        return True
