"""The files inside a tar, in one pass and constant memory; none is unpacked to disk."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pyarrow.fs import FileSystem

READ_BYTES = 8 * 2**20
"""Bytes a read asks of storage; members are a header of 512 bytes and about 110 KB of image."""

_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


class DamagedTar(Exception):
    """What follows in the tar cannot be read."""


@dataclass(frozen=True)
class Member:
    """A regular file in a tar. read: its bytes; before the next member is asked for. Raises DamagedTar."""

    name: str
    size: int
    read: Callable[[], bytes]


def tar_members(filesystem: FileSystem, path: str) -> Iterator[Member]:
    """The regular files of a tar (or .tar.gz, .bz2, .xz), skipping over the bytes of those that are not read.

    Raises DamagedTar where the tar cannot be followed any further.
    """
    with filesystem.open_input_file(path) as raw, io.BufferedReader(raw, READ_BYTES) as file:
        tar = _guard(lambda: tarfile.open(fileobj=file, mode="r:*"))  # noqa: SIM115 - it has nothing of its own to close
        while member := _guard(tar.next):
            tar.members = []  # type: ignore[attr-defined]  # else they pile up
            if member.isreg():
                yield Member(member.name, member.size, partial(_guard, partial(_content, tar, member)))
        # tarfile takes an unreadable header for the end; the real one is zeros or nothing.
        if any(_guard(lambda: _block(tar))):
            raise DamagedTar("the tar is damaged: no header where the next file should begin")


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
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedTar(f"the tar is damaged: {reason}") from None
