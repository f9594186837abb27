"""Files and objects: opened, read as they were listed, and written whole."""

import errno
import io
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, FSSpecHandler, LocalFileSystem, PyFileSystem

from jobs.storage.address import OBJECT_SCHEMES, Parts, below, is_uri, parts_of, path_of, shown
from jobs.storage.failure import Damaged, Gone, Unaddressable, decoding, patiently, storage_errors
from jobs.storage.s3 import ENDPOINTS, SCHEMES, open_s3
from vit_actor.errors import UserError
from vit_actor.network import check_network_settings

OBJECT_STORES = {"s3": "s3", "gcs": "gs", "abfs": "abfs"}
"""Filesystems without directories, whose objects appear whole or not at all, by pyarrow's name: their schemes."""
IO_THREADS = 64  # Requests to a store that are under way at once; pyarrow's own limit is 8 listings, 25 connections
STORE_RETRY_SECONDS = 5  # How long a store's own client tries again, before `patiently` does
_ENDPOINTS = (*ENDPOINTS, "CLOUD_STORAGE_EMULATOR_ENDPOINT")
ROW_GROUP = 128 * 1024  # Rows that a reader of a long table can skip together by their statistics
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".arrow": "application/vnd.apache.arrow.stream",
}


def open_storage(address: str) -> tuple[FileSystem, str]:
    """The filesystem behind an address, and the path inside it, without a trailing slash.

    Whether the path exists is not checked: it may be about to be written. Raises UserError for an unknown scheme, a missing
    driver, or an address that no store can have; StorageError where a store does not open.
    """
    parts = parts_of(address)
    if not is_uri(address):
        return LocalFileSystem(), path_of(address)
    if parts is None or parts.scheme != "file":
        check_network_settings()
    if parts is None or parts.scheme not in (*OBJECT_SCHEMES, "file", "hdfs", "viewfs", "hf"):
        return _open_by_fsspec(address)
    if parts.scheme == "file":
        if parts.authority not in ("", "localhost"):
            raise UserError(f"{shown(address)}: file:// has no host; write file:///{parts.authority}{parts.path}")
        return LocalFileSystem(), os.path.normpath(path_of(address))
    if parts.scheme == "hf":
        from huggingface_hub import HfFileSystem

        return PyFileSystem(FSSpecHandler(HfFileSystem())), f"{parts.authority}{parts.path}".rstrip("/")
    path = path_of(address)
    opening = partial(_open_store, replace(parts, path=""), *map(os.environ.get, _ENDPOINTS))
    try:
        filesystem, root = patiently(opening, address, "open")
    except Unaddressable:  # its reason repeats a part of the URI, credentials and all
        raise UserError(
            f"{shown(address)}: not a valid URI; check it, and write what is special in a password as %2F, a ? in a name as %3F"
        ) from None
    return filesystem, "/".join(part for part in (root.rstrip("/"), path.strip("/")) if part) or "/"


def _open_by_fsspec(address: str) -> tuple[FileSystem, str]:
    import fsspec  # here, because few runs need it and every --help would wait for it

    with storage_errors(address):
        try:
            driver, path = fsspec.core.url_to_fs(address)
        except ValueError:
            scheme = address.partition("://")[0]
            raise UserError(f"{shown(address)}: unknown scheme {scheme}://; use a local path, s3://, gs:// or fsspec's") from None
        return PyFileSystem(_Handler(driver)), path.rstrip("/") or "/"


class _Handler(FSSpecHandler):
    """As pyarrow's, but a server that does not answer is none without the file: fsspec's client of HTTP says the same of both."""

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        found = super().get_file_info(paths)
        for info in found:
            if info.type == FileType.NotFound:
                try:
                    self.fs.info(info.path)
                except FileNotFoundError as error:
                    cause = error.__cause__
                    if isinstance(cause, OSError) or getattr(cause, "status", 404) not in (404, 410):
                        raise cause or error from None
        return found


@lru_cache(maxsize=16)
def _open_store(parts: Parts, *endpoint: str | None) -> tuple[FileSystem, str]:
    """The filesystem of a bucket, and its root in it; once a process, since connecting can take a while.

    endpoint: of the environment, which the client reads.
    """
    pa.set_io_thread_count(max(pa.io_thread_count(), IO_THREADS))
    if parts.scheme in SCHEMES:
        return open_s3(parts), parts.authority.rpartition("@")[2]
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in (parts.query or ""):
        limit = f"retry_limit_seconds={STORE_RETRY_SECONDS}"  # its own is 15 minutes
        parts = replace(parts, query=f"{parts.query}&{limit}" if parts.query else limit)
    filesystem, root = FileSystem.from_uri(str(parts))
    return filesystem, root


class Positioned(io.RawIOBase):
    """A stream of bytes that can be read from any place: a subclass reads, moves `position` and seeks."""

    position = 0

    def tell(self) -> int:
        return self.position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class SteadyFile(Positioned):
    """A file or object, read as it was listed: reads that fail are asked again, and one that is short is failing too.

    size: as listed, in bytes; Gone is raised where it has another one now. opened: the address's filesystem and path, if known.
    """

    def __init__(self, address: str, size: int | None = None, opened: tuple[FileSystem, str] | None = None) -> None:
        self.address = address
        self._filesystem, self._path = opened or open_storage(address)
        self._listed = size
        self._file = patiently(self._open, address, "open")

    def read_at(self, count: int, position: int) -> bytes:
        """So many bytes from there, fewer only at the file's end."""
        count = max(0, min(count, self.size - position))
        return patiently(partial(self._read, count, position), self.address, "read") if count else b""

    def _open(self) -> pa.NativeFile:
        file = open_file(self._filesystem, self._path)
        size: int = file.size()
        if self._listed not in (None, size):
            file.close()
            raise Gone(
                f"{shown(self.address)}: changed while the run read it; restore it first ({self._listed:,} bytes became {size:,})"
            )
        self._listed = self.size = size
        return file

    def _read(self, count: int, position: int) -> bytes:
        try:
            if self._file.closed:
                self._file = self._open()
            data: bytes = self._file.read_at(count, position)
        except BaseException:
            with suppress(OSError):
                self._file.close()  # the next attempt opens it anew: a stale handle stays stale
            raise
        if len(data) < count:
            self._file.close()
            raise OSError(errno.EIO, f"a read gave {len(data):,} of {count:,} bytes")
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read_at(len(buffer), self.position)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence])
        return self.position

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_file(filesystem: FileSystem, path: str) -> pa.NativeFile:
    """A file or object, to be read. Raises UserError for what is no file: opening a pipe may never end."""
    if isinstance(filesystem, LocalFileSystem) and not os.path.isfile(path) and os.path.exists(path):
        kind = "directory" if os.path.isdir(path) else "pipe, a socket or a device"
        raise UserError(f"{path}: is no file but a {kind}; move it away, or give another path")
    return filesystem.open_input_file(path)


def read_whole(filesystem: FileSystem, path: str, most: int | None = None) -> pa.Buffer:
    """All bytes of a file or object, with its size in bytes looked at first: None where it has more than `most`.

    For use within `patiently`: raises OSError, also for a read that is short.
    """
    with open_file(filesystem, path) as file:
        size = file.size()
        if most is not None and size > most:
            return None
        data = file.read_buffer()
    if data.size < size:
        raise OSError(errno.EIO, f"a read gave {data.size:,} of {size:,} bytes")
    return data


def forget_cached(address: str) -> None:
    """Have a local file's next read come from the disk or server, as far as the kernel follows."""
    if not is_uri(address) or address.startswith("file:"):
        with suppress(OSError):
            file = os.open(path_of(address), os.O_RDONLY | os.O_NONBLOCK)  # it may be a pipe
            with suppress(OSError):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def read_twice[R](address: str, act: Callable[[], R]) -> R:
    """What `act` gives; where it finds damage, once more, past the page cache. Raises Damaged where it is there again."""
    try:
        return act()
    except Damaged:
        forget_cached(address)
        return act()


def read_as[R](address: str, take: Callable[[pa.Buffer], R], opened: tuple[FileSystem, str] | None = None) -> R:
    """What `take` makes of a whole file or object, twice where it finds damage. opened: as for SteadyFile.

    Raises Damaged for whatever `take` raises, StorageError.
    """
    filesystem, path = opened or open_storage(address)

    def read() -> R:
        data = patiently(partial(read_whole, filesystem, path), address, "read")
        with decoding():
            return take(data)

    return read_twice(address, read)


def look(address: str, opened: tuple[FileSystem, str] | None = None) -> FileInfo:
    """What is at an address: of type NotFound for nothing. opened: as for SteadyFile. Raises StorageError."""
    filesystem, path = opened or open_storage(address)
    return patiently(partial(filesystem.get_file_info, path), address, "look at")


def listed(address: str, *, recursive: bool = False) -> list[FileInfo]:
    """What is in a directory, or below it; nothing where there is none. Raises StorageError."""
    filesystem, path = open_storage(address)
    listing = FileSelector(path, recursive=recursive, allow_not_found=True)
    return patiently(partial(filesystem.get_file_info, listing), address, "list")


def write_atomically(
    filesystem: FileSystem, path: str, *data: bytes | memoryview | pa.Buffer, durable: bool = True, operation: str = "write"
) -> None:
    """Put a whole file at `path`, creating its directory: readers see all of it or the previous one, never a part.

    On a local (or mounted) filesystem a hidden `.part` beside it is flushed to disk and renamed; an object store
    publishes one upload when it closes. Raises StorageError.

    data: the file's parts, in order. durable: whether to wait for the disk, which a file may do without that is checked when
    it is read. operation: what an error calls it.
    """
    write = _write_local if isinstance(filesystem, LocalFileSystem) else partial(_write_object, filesystem)
    patiently(partial(write, path, data, durable), named(filesystem, path), operation)


def delete(filesystem: FileSystem, path: str) -> None:
    """Delete a file; one that is gone is no fault. Raises StorageError."""
    with suppress(Gone):
        patiently(partial(filesystem.delete_file, path), named(filesystem, path), "delete")


def named(filesystem: FileSystem, path: str) -> str:
    """The address of a path inside a filesystem; of one of fsspec's the path alone."""
    scheme = OBJECT_STORES.get(filesystem.type_name)
    bucket, _, key = path.partition("/")
    return below(f"{scheme}://{bucket}", key) if scheme else path


def _write_local(path: str, data: tuple[bytes | memoryview | pa.Buffer, ...], durable: bool) -> None:
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    partial_name = os.path.join(directory, f".{name}.{uuid.uuid4().hex}.part")
    try:
        with open(partial_name, "wb") as file:
            file.writelines(data)
            file.flush()
            if durable:
                try:
                    os.fsync(file.fileno())  # else a crash may leave the new name on an empty file
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # some mounts cannot
                        raise
        os.replace(partial_name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial_name)
        raise


def _write_object(filesystem: FileSystem, path: str, data: tuple[bytes | memoryview | pa.Buffer, ...], _: bool) -> None:
    if filesystem.type_name not in OBJECT_STORES:
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    kind = CONTENT_TYPES.get(os.path.splitext(path)[1], "application/octet-stream")
    with filesystem.open_output_stream(path, metadata={"Content-Type": kind}) as stream:
        for part in data:
            stream.write(part)


def parquet_files(filesystem: FileSystem, directory: str) -> Iterator[str]:
    """Paths of the Parquet files below a directory that are complete, one directory listed at a time."""
    listing = FileSelector(directory, allow_not_found=True)
    for entry in patiently(partial(filesystem.get_file_info, listing), named(filesystem, directory), "list"):
        if entry.type == FileType.Directory:
            yield from parquet_files(filesystem, entry.path)
        elif entry.path.endswith(".parquet"):
            yield entry.path


def write_table(filesystem: FileSystem, path: str, table: pa.Table) -> None:
    """A table as one Parquet file, whole or not at all; see write_atomically."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
    write_atomically(filesystem, path, buffer.getvalue())
