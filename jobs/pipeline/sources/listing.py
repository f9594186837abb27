"""What a place holds, listed as a stream: one call a folder, sizes included, hidden names left out."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from jobs.pipeline.sources.hub import hub_errors, is_hub
from jobs.pipeline.sources.in_order import SURVEY_THREADS
from jobs.storage import open_storage, shown, storage_errors
from vit_actor.errors import UserError

# fmt: off
IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".qoi",
    ".tga", ".icb", ".vda", ".vst", ".psd", ".pcx", ".dcx", ".dds", ".ico", ".cur", ".icns", ".sgi", ".rgb", ".rgba",
    ".bw", ".ras", ".im", ".msp", ".blp", ".fit", ".fits", ".fli", ".flc", ".ftc", ".ftu", ".gbr", ".pcd", ".pxr",
    ".xbm", ".xpm",
)
# fmt: on
"""What Pillow decodes, but for jobs.pipeline.decode.REFUSED."""
PARQUET_EXTENSIONS = (".parquet", ".parq", ".pq")
TAR_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

RUBBISH = ("@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that file servers and disks keep for themselves, thumbnails among them."""

MAX_DEPTH = 32
"""Folders inside folders; deeper is a symbolic link that leads back to its own parent."""


class Entry(NamedTuple):
    """A file or folder; size in bytes, 0 for a folder or a link that leads nowhere."""

    name: str
    size: int
    is_folder: bool


@lru_cache(maxsize=16)
def open_place(uri: str) -> tuple[FileSystem, str]:
    """open_storage, once a process: connecting to a store can take a while.

    Of a store, as many requests as threads ask for are under way at once; pyarrow's own limit is 8 listings, 25 connections.
    """
    pa.set_io_thread_count(max(pa.io_thread_count(), SURVEY_THREADS))
    return open_storage(uri)


def place_errors(uri: str) -> AbstractContextManager[None]:
    """Turn what a store raises inside the block into a UserError naming `uri` and the fix."""
    return hub_errors(uri) if is_hub(uri) else storage_errors(uri)


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def has_extension(name: str, extensions: tuple[str, ...]) -> bool:
    return name.lower().endswith(extensions)


def is_hidden(name: str) -> bool:
    """Whether a name says that this is no data: a dot or an underscore in front, as Spark, Hive and Arrow have it, or RUBBISH."""
    return name.startswith((".", "_")) or name in RUBBISH


HIDDEN = "hidden"
"""What hidden names are counted as."""


def extension(name: str) -> str:
    """What a file that is left out is counted as: its extension, in lower case."""
    stem, dot, last = name.rpartition(".")
    return f".{last.lower()}" if stem and dot and len(last) < 12 else "without"


def entries(filesystem: FileSystem, folder: str, left_out: Counter[str] | None = None) -> Iterator[Entry]:
    """A folder's own entries, in no order. Hidden names, pipes, sockets and devices are no data and left out.

    left_out: counts the hidden ones.
    """
    if isinstance(filesystem, LocalFileSystem):
        with os.scandir(folder) as found:  # as a stream, where pyarrow would build the whole list
            for item in found:
                if is_hidden(item.name):
                    if left_out is not None:
                        left_out[HIDDEN] += 1
                    continue
                try:
                    info = item.stat()
                except OSError:
                    yield Entry(item.name, 0, False)
                    continue
                if stat.S_ISDIR(info.st_mode):
                    yield Entry(item.name, 0, True)
                elif stat.S_ISREG(info.st_mode):
                    yield Entry(item.name, info.st_size, False)
        return
    for info in filesystem.get_file_info(FileSelector(folder)):
        if is_hidden(info.base_name):
            if left_out is not None:
                left_out[HIDDEN] += 1
        elif info.type != FileType.Unknown:
            yield Entry(info.base_name, info.size or 0, info.type == FileType.Directory)


def walk(
    filesystem: FileSystem,
    base: str,
    folder: str,
    extensions: tuple[str, ...],
    *,
    ordered: bool,
    left_out: Counter[str] | None = None,
    depth: int = 0,
) -> Iterator[tuple[str, int]]:
    """(path below base, size) of the files under a folder: its own by name, then those of its folders by name.

    ordered: False leaves a folder's own files in no order, but holds none of them in memory.
    left_out: counts the files of other extensions, by extension, and hidden names.
    """
    if depth > MAX_DEPTH:
        raise UserError(f"{folder}: nested deeper than {MAX_DEPTH} folders; remove the symbolic link that leads back")
    found = entries(filesystem, join(base, folder), left_out)
    folders = []
    for entry in sorted(found) if ordered else found:
        if entry.is_folder:
            folders.append(entry.name)
        elif has_extension(entry.name, extensions):
            yield join(folder, entry.name), entry.size
        elif left_out is not None:
            left_out[extension(entry.name)] += 1
    for name in sorted(folders):
        below = join(folder, name)
        yield from walk(filesystem, base, below, extensions, ordered=ordered, left_out=left_out, depth=depth + 1)


SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""What data sets call their splits, and which is meant."""


def split_of(path: str) -> str | None:
    """The split a file is of, by its name (validation-00000-of-00014.parquet) or a folder's; None without."""
    *folders, name = path.lower().split("/")
    for part in (*re.split(r"[-._]", name), *reversed(folders)):  # validation-00000, or imagenet-1k-validation-00000
        if part in SPLITS:
            return SPLITS[part]
    return None


@dataclass(frozen=True)
class FileSet:
    """The data files below a folder, or those of its own files that match a pattern.

    folder: URI that image ids are relative to.
    names: None for all, else names with * and ? and {a,b} and {000..010} in them.
    split: only the files of this one, see split_of; None for all.
    """

    folder: str
    extensions: tuple[str, ...]
    names: str | None = None
    split: str | None = None

    def files(self, left_out: Counter[str] | None = None) -> list[tuple[str, int]]:
        """(path below the folder, size), sorted. Raises UserError for a name that is not there, or if nothing matches."""
        filesystem, base = open_place(self.folder)
        with place_errors(self.folder):
            if self.names is None:
                found = sorted(walk(filesystem, base, "", self.extensions, ordered=False, left_out=left_out))
            else:
                found = self._matching(sorted(e[:2] for e in entries(filesystem, base) if not e.is_folder))
        if self.split is not None:
            if left_out is not None:
                others = (split_of(name) for name, _ in found)
                left_out.update(f"split {other or 'without a name'}" for other in others if other != self.split)
            found = [file for file in found if split_of(file[0]) == self.split]
        if not found:
            raise UserError(f"{shown(join(self.folder, self.names or ''))}: nothing here matches")
        return found

    def _matching(self, files: list[tuple[str, int]]) -> list[tuple[str, int]]:
        assert self.names is not None
        if self.names in (name for name, _ in files):  # as it stands, whatever characters it has
            return [file for file in files if file[0] == self.names]
        names = expand_braces(self.names)
        missing = {name for name in names if not re.search(r"[*?]", name)}.difference(name for name, _ in files)
        if missing:
            raise UserError(f"{shown(join(self.folder, min(missing)))}: no such file")
        pattern = re.compile("|".join(re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in names), re.DOTALL)
        return [file for file in files if pattern.fullmatch(file[0])]


def check_unchanged(uri: str, size: int) -> None:
    """Raise UserError where a file of a data set no longer has the size in bytes that it was listed with."""
    filesystem, path = open_place(uri)
    with place_errors(uri):
        found = filesystem.get_file_info(path)
    if found.type == FileType.NotFound:
        raise UserError(f"{shown(uri)}: no such file or directory; restore it first")
    if found.size != size:
        raise UserError(f"{shown(uri)}: changed while the run read it; restore it first")


def expand_braces(pattern: str) -> list[str]:
    """The names a shell would make of {a,b} and {000..010}: "x-{08..10}.tar" -> x-08.tar, x-09.tar, x-10.tar."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    span = re.fullmatch(r"([0-9]+)\.\.([0-9]+)", found[1])
    if span:
        first, last = span.groups()
        choices = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    else:
        choices = found[1].split(",")
    return [name for choice in choices for name in expand_braces(pattern[: found.start()] + choice + pattern[found.end() :])]


def split_uri(uri: str) -> tuple[str, str]:
    """(URI of the folder, last name); a query such as ?region=... stays with the folder."""
    scheme = "://" in uri
    path, mark, query = uri.partition("?") if scheme else (uri, "", "")
    folder, slash, name = path.rstrip("/").rpartition("/")
    if not scheme:
        return folder or slash or ".", name
    if folder.endswith((":/", "//")):
        folder += "/"
    return folder + mark + query, name
