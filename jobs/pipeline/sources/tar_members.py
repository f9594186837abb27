"""The files inside a tar, in one pass; none is unpacked to disk. Links to earlier files of the tar are followed."""

from __future__ import annotations

import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pyarrow.fs import FileSystem

READ_BYTES = 8 * 2**20
"""Bytes a read asks of storage; members are a header of 512 bytes and about 110 KB of image."""

MOST_LINKED = 100_000
"""Files of a tar that links to are followed: some 100 bytes of memory each."""

_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


MOST_HEADER_BYTES = 2**20
"""Of a long name or other extension of a header; tar's own writers make a few hundred."""


class DamagedTar(Exception):
    """What follows in the tar cannot be read."""


@dataclass(frozen=True)
class Member:
    """A file in a tar. read: its bytes; before the next member is asked for. Raises DamagedTar.

    lost: why there is nothing to read, as an error says it.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    lost: str | None = None


def tar_members(filesystem: FileSystem, path: str) -> Iterator[Member]:
    """The files of a tar (or .tar.gz, .bz2, .xz), skipping over the bytes of those that are not read.

    Raises DamagedTar where the tar cannot be followed any further.
    """
    with filesystem.open_input_file(path) as raw, io.BufferedReader(raw, READ_BYTES) as file:
        tar = _guard(lambda: tarfile.open(fileobj=file, mode="r:*", tarinfo=_Bounded))  # noqa: SIM115 - it has nothing of its own to close
        files: dict[str, tarfile.TarInfo] = {}
        while member := _guard(tar.next):
            tar.members = []  # type: ignore[attr-defined]  # else they pile up
            if member.isreg() and not member.issparse():
                found: tarfile.TarInfo | None = member
            elif member.issparse():
                yield Member(member.name, member.size, bytes, lost="a sparse file, which holds less than it claims")
                continue
            elif member.islnk() or member.issym():
                found = files.get(_target(member))
            else:
                continue
            if found is None:
                yield Member(member.name, 0, bytes, lost=f"a link to {member.linkname[:200]}, which is not before it in the tar")
                continue
            if len(files) < MOST_LINKED:
                files[posixpath.normpath(member.name)] = found
            following = tar.offset
            yield Member(member.name, found.size, partial(_guard, partial(_content, tar, found)))
            tar.offset = following  # a link's bytes lie before it
        # tarfile takes an unreadable header for the end; the real one is zeros or nothing.
        if any(_guard(lambda: _block(tar))):
            raise DamagedTar("the tar is damaged: no header where the next file should begin")


class _Bounded(tarfile.TarInfo):
    """A header whose extensions are no larger than names are."""

    def _proc_gnulong(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        self._check_size()
        return super()._proc_gnulong(tar)  # type: ignore[misc]

    def _proc_pax(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        self._check_size()
        return super()._proc_pax(tar)  # type: ignore[misc]

    def _check_size(self) -> None:
        if self.size > MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")


def _target(link: tarfile.TarInfo) -> str:
    """The name a link leads to: a hard link's from the top, a symbolic one's from the link's own folder."""
    base = "" if link.islnk() else posixpath.dirname(link.name)
    return posixpath.normpath(posixpath.join(base, link.linkname))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    return file.read()


def _block(tar: tarfile.TarFile) -> bytes:
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    return tar.fileobj.read(tarfile.BLOCKSIZE)


def _guard[R](act: Callable[[], R]) -> R:
    try:
        return act()
    except (RecursionError, MemoryError):
        raise DamagedTar("the tar is damaged: its headers are nested or claim more than there is") from None
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedTar(f"the tar is damaged: {reason}") from None
