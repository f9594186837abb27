"""What a place holds, listed as a stream: one call a folder, sizes included, hidden names left out."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from jobs.storage.address import below, shown
from jobs.storage.failure import Gone, patiently, storage_errors
from jobs.storage.files import open_storage
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


def join(folder: str, name: str) -> str:
    """A path below the data set's folder; `below` makes addresses of them."""
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


def entries(address: str, left_out: Counter[str] | None = None) -> Iterator[Entry]:
    """A folder's own entries, in no order. Hidden names, pipes, sockets and devices are no data and left out.

    left_out: counts the hidden ones. Raises UserError for a key of a bucket that cannot be addressed.
    """
    filesystem, path = open_storage(address)
    listed = _local_entries if isinstance(filesystem, LocalFileSystem) else partial(_store_entries, filesystem)
    for entry in listed(address, path):
        if not is_hidden(entry.name):
            yield entry
        elif left_out is not None:
            left_out[HIDDEN] += 1


def _local_entries(address: str, path: str) -> Iterator[Entry]:
    with patiently(partial(os.scandir, path), address, "list") as found, storage_errors(address, "list"):
        for item in found:  # as a stream, where pyarrow would build the whole list
            try:
                with storage_errors(address, "list"):
                    info = item.stat()
            except Gone:
                yield Entry(item.name, 0, False)  # a link that leads nowhere
                continue
            if stat.S_ISDIR(info.st_mode):
                yield Entry(item.name, 0, True)
            elif stat.S_ISREG(info.st_mode):
                yield Entry(item.name, info.st_size, False)


def _store_entries(filesystem: FileSystem, address: str, path: str) -> Iterator[Entry]:
    listed: list[FileInfo] = patiently(partial(filesystem.get_file_info, FileSelector(path)), address, "list")
    for info in listed:
        name = info.path.removeprefix(path).strip("/")
        if name in ("", ".", ".."):
            raise UserError(f"{shown(address)}: {_unaddressed(filesystem, path, name)}; rename it or remove it")
        if info.type != FileType.Unknown:
            yield Entry(name, info.size or 0, info.type == FileType.Directory)


def _unaddressed(filesystem: FileSystem, path: str, part: str) -> str:
    """The key that makes a listing name its own folder, or a part . or .. , as part of a sentence."""
    found = filesystem.get_file_info(FileSelector(path, recursive=True))
    key = next((info.path for info in found if f"/{part}/" in f"{info.path}/" and info.type == FileType.File), path)
    return f"its key {key!r} has a part {part!r} between slashes, which the store's clients cannot address"


def walk(
    base: str,
    folder: str,
    extensions: tuple[str, ...],
    *,
    ordered: bool,
    left_out: Counter[str] | None = None,
    depth: int = 0,
) -> Iterator[tuple[str, int]]:
    """(path below base, size) of the files under a folder: its own by name, then those of its folders by name.

    base: an address. ordered: False leaves a folder's own files in no order, but holds none of them in memory.
    left_out: counts the files of other extensions, by extension, and hidden names.
    """
    if depth > MAX_DEPTH:
        raise UserError(f"{folder}: nested deeper than {MAX_DEPTH} folders; remove the symbolic link that leads back")
    found = entries(below(base, folder) if folder else base, left_out)
    folders = []
    for entry in sorted(found) if ordered else found:
        if entry.is_folder:
            folders.append(entry.name)
        elif has_extension(entry.name, extensions):
            yield join(folder, entry.name), entry.size
        elif left_out is not None:
            left_out[extension(entry.name)] += 1
    for name in sorted(folders):
        yield from walk(base, join(folder, name), extensions, ordered=ordered, left_out=left_out, depth=depth + 1)


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
        if self.names is None:
            found = sorted(walk(self.folder, "", self.extensions, ordered=False, left_out=left_out))
        else:
            found = self._matching(sorted(e[:2] for e in entries(self.folder) if not e.is_folder))
        if self.split is not None:
            if left_out is not None:
                others = (split_of(name) for name, _ in found)
                left_out.update(f"split {other or 'without a name'}" for other in others if other != self.split)
            found = [file for file in found if split_of(file[0]) == self.split]
        if not found:
            raise UserError(f"{shown(below(self.folder, self.names or ''))}: nothing here matches")
        return found

    def _matching(self, files: list[tuple[str, int]]) -> list[tuple[str, int]]:
        assert self.names is not None
        if self.names in (name for name, _ in files):  # as it stands, whatever characters it has
            return [file for file in files if file[0] == self.names]
        names = expand_braces(self.names)
        missing = {name for name in names if not re.search(r"[*?]", name)}.difference(name for name, _ in files)
        if missing:
            raise UserError(f"{shown(below(self.folder, min(missing)))}: no such file")
        pattern = re.compile("|".join(re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in names), re.DOTALL)
        return [file for file in files if pattern.fullmatch(file[0])]


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
