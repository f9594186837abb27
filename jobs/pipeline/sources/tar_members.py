"""The files inside a tar, in one pass; none is unpacked to disk. Links to earlier files of the tar are followed."""

import bz2
import io
import lzma
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from jobs.storage.address import shown
from jobs.storage.failure import Failing, decoding
from jobs.storage.files import Positioned, SteadyFile, forget_cached

READ_BYTES = 8 * 2**20  # Bytes a read asks of storage; members are a header of 512 bytes and about 110 KB of image
MOST_LINKED = 100_000  # Files of a tar that links to are followed: some 100 bytes of memory each
RECORDS = (tarfile.RECORDSIZE, *(tarfile.BLOCKSIZE << bits for bits in range(1, 12)))
"""Sizes in bytes that writers fill up to with zeros: tar's own, and up to 1 MiB for tapes."""
EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
"""Types of headers that extend the next one: long names and links of GNU's, and pax's."""
MOST_HEADER_BYTES = 2**20  # Of a long name or other extension of a header; tar's own writers make a few hundred


@dataclass(frozen=True)
class Member:
    """A file in a tar. read: gives its bytes; call it before asking for the next member. Raises Damaged.

    lost: why there is nothing to read, as an error says it.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    lost: str | None = None


def tar_members(steady: SteadyFile) -> Iterator[Member]:
    """The files of a tar (or .tar.gz, .bz2, .xz) to its last byte, skipping over the bytes of those that are not read.

    Archives put together with `cat` are read one after the other. Raises Damaged where the tar cannot be followed any further,
    StorageError where it cannot be read.
    """
    with io.BufferedReader(steady, READ_BYTES) as file:
        with decoding():
            if not steady.size:
                raise tarfile.ReadError("the file is empty")
            tar = _opened(file)
        files = dict[str, tarfile.TarInfo]()
        archive = 0
        while True:
            with decoding():
                member = tar.next()
                zeros, begins = _skip_end(tar, archive) if member is None else (0, None)
            if member is None:
                if tar.fileobj is file:  # what is compressed has a checksum
                    _check_zeros(steady, tar.offset, zeros)
                if begins is None:
                    break
                tar.offset = archive = begins
                continue
            tar.members = []  # type: ignore[attr-defined]  # else they pile up
            lost: str | None = None
            found: tarfile.TarInfo | None = member
            if member.islnk() or member.issym():
                base = "" if member.islnk() else posixpath.dirname(member.name)  # a hard link's target is from the top
                found = files.get(posixpath.normpath(posixpath.join(base, member.linkname)))
                lost = None if found else f"a link to {member.linkname[:200]}, which is not before it in the tar"
            elif not member.isreg():
                continue
            if member.issparse():
                lost = "a sparse file, which holds less than it claims"
            if lost or found is None:
                yield Member(member.name, 0, bytes, lost)
                continue
            if len(files) < MOST_LINKED:
                files[posixpath.normpath(member.name)] = found
            yield Member(member.name, found.size, partial(_content, tar, found))


def _opened(file: Any) -> tarfile.TarFile:
    magic = file.peek(6)[:6]
    if magic[:2] == b"\x1f\x8b":
        return tarfile.open(fileobj=file, mode="r:gz", tarinfo=_Bounded)
    unpack: Any = {b"BZh": bz2.BZ2Decompressor, b"\xfd7z": lzma.LZMADecompressor}.get(magic[:3])
    unpacked = io.BufferedReader(_Unpacked(file, unpack), READ_BYTES) if unpack else file
    return tarfile.open(fileobj=unpacked, mode="r:", tarinfo=_Bounded)


class _Unpacked(Positioned):
    """What is in a compressed file, to its last byte: other readers pass over what follows the last stream that they know."""

    def __init__(self, packed: Any, unpack: Callable[[], Any]) -> None:
        self._packed, self._unpack, self._stream = packed, unpack, unpack()

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            following = b""
            if self._stream.eof:
                following = self._stream.unused_data.lstrip(b"\0")
                while not following and (more := self._packed.read(tarfile.RECORDSIZE)):
                    following = more.lstrip(b"\0")
                if not following:
                    return 0
                self._stream = self._unpack()
            elif self._stream.needs_input and not (following := self._packed.read(tarfile.RECORDSIZE)):
                raise EOFError("the compressed file ends too soon")
            data = self._stream.decompress(following, len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = offset if whence == io.SEEK_SET else self.position + offset
        if target < self.position:
            self._packed.seek(0)
            self._stream, self.position = self._unpack(), 0
        while self.position < target and self.readinto(bytearray(min(READ_BYTES, target - self.position))):
            pass
        return self.position


class _Bounded(tarfile.TarInfo):
    """A header whose extensions are no larger than names are."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in EXTENSIONS and self.size > MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with decoding():
        file = tar.extractfile(member)
        assert file is not None  # it is a regular file
        return file.read()


def _skip_end(tar: tarfile.TarFile, archive: int) -> tuple[int, int | None]:
    """(number of zeros that end the archive which begins at `archive`, where another begins behind them or None).

    An archive ends with one or two blocks of zeros, or with zeros up to a whole record and so many more. Raises tarfile.ReadError
    for more zeros, which stand where files were, and where there is no header.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    zeros = 0
    while block := tar.fileobj.read(tarfile.RECORDSIZE):
        left = len(block.lstrip(b"\0"))
        zeros += len(block) - left
        if left:
            break
    else:
        length = tar.offset + zeros - archive
        most = 2 * tarfile.BLOCKSIZE
        if zeros > most and not any(length % record <= most and zeros <= record + most for record in RECORDS):
            raise tarfile.ReadError(f"{zeros:,} zeros at its end, more than end a tar")
        return zeros, None
    blocks = zeros // tarfile.BLOCKSIZE
    begins = tar.offset + blocks * tarfile.BLOCKSIZE
    if not blocks:
        raise tarfile.ReadError("no header where the next file should begin")
    if blocks > 2 and (begins - archive) % tarfile.RECORDSIZE > 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"{zeros:,} zeros at byte {tar.offset:,}, where files were")
    return zeros, begins


def _check_zeros(steady: SteadyFile, start: int, count: int) -> None:
    """Raise Failing where a second read, past the page cache, does not give zeros too: some bad reads give nothing else."""
    forget_cached(steady.address)
    for position in range(start, start + count, READ_BYTES):
        if any(steady.read_at(min(READ_BYTES, start + count - position), position)):
            raise Failing(f"{shown(steady.address)}: two reads gave different bytes, of which one gave zeros")
