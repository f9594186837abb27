"""What a place holds: one call a folder, sizes included, hidden names left out; and which of its files are the data set."""

import math
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from jobs.pipeline.sources.source import printable
from jobs.storage.address import below, parent, shown
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
"""Of the formats that jobs.pipeline.decode reads."""
PARQUET_EXTENSIONS = (".parquet", ".parq", ".pq")
TAR_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
KINDS = {"Parquet": PARQUET_EXTENSIONS, "tar": TAR_EXTENSIONS, "Arrow": (".arrow",), "images": IMAGE_EXTENSIONS}
RUBBISH = {
    *("@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "__pycache__"),
    *("_delta_log", "_change_data", "_symlink_format_manifest", "_spark_metadata", "_temporary", "_tmp", "_metadata"),
}
"""Folders that disks, file servers and writers of tables keep for themselves, thumbnails among them."""
TABLES = {
    "a Delta table": r"_delta_log",
    "a Hudi table": r"\.hoodie.*",
    "an Iceberg table": r".+\.metadata\.json|version-hint\.text",
    "a Paimon table": r"manifest-list-[0-9a-f-]+",
    "a DuckLake table": r"ducklake-[0-9a-f-]+(-delete)?\.parquet",
    "a table with delete files": r".+-deletes?\.parquet",
    "a streaming table of Spark": r"_spark_metadata",
}
"""Names by which a folder of Parquet files says that some other file decides which of its rows count."""
METADATA = ("metadata.csv", "metadata.jsonl")  # Beside the images, in the form of `datasets`
MAX_DEPTH = 32  # Folders inside folders; deeper is a symbolic link that leads back to its own parent
HIDDEN = "hidden names"
MOST_KINDS = 20  # Of what is left out that are told


class Entry(NamedTuple):
    """A file or folder; size in bytes, 0 for a folder or a link that leads nowhere, below 0 for what is neither."""

    name: str
    size: int
    is_folder: bool


def join(folder: str, name: str) -> str:
    """A path below the data set's folder; `below` makes addresses of them."""
    return f"{folder}/{name}" if folder else name


def has_extension(name: str, extensions: tuple[str, ...]) -> bool:
    return name.lower().endswith(extensions)


def is_image(name: str) -> bool:
    return has_extension(name, IMAGE_EXTENSIONS)


def is_hidden(name: str, is_folder: bool = False) -> bool:
    """Whether a name says that this is no data: a dot in front, RUBBISH, or what writers of tables leave, such as `_SUCCESS`.

    Images and class folders may begin with an underscore: cameras write _DSC0001.JPG.
    """
    return name.startswith(".") or name in RUBBISH or (name.startswith("_") and not is_folder and not is_image(name))


class LeftOut:
    """What is found beside the data and not classified: how many of each kind, and one of them. but: a file that is not told."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, str]] = {}
        self.but: str | None = None

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """kind: in words, in the plural."""
        before, first = self.found.get(kind, (0, example))
        self.found[kind] = before + count, min(first, example)

    def add_file(self, path: str) -> None:
        """A file that is no data, as one of its extension; those of METADATA under their own names."""
        name = path.rpartition("/")[2]
        stem, dot, last = name.rpartition(".")
        kind = f".{last.lower()} files" if stem and dot and len(last) < 12 else "files without extension"
        if path != self.but:
            self.add(f"files {name}" if name in METADATA else kind, path)

    def update(self, other: "LeftOut") -> None:
        for kind, (count, example) in other.found.items():
            self.add(kind, example, count)

    def told(self) -> dict[str, int]:
        """Counts by kind with its example, most first: {'.txt files, such as a/notes.txt': 9}."""
        most = sorted(self.found.items(), key=lambda kind: (-kind[1][0], kind[0]))
        told = {f"{kind}, such as {printable(example)}": count for kind, (count, example) in most[:MOST_KINDS]}
        rest = sum(count for _, (count, _) in most[MOST_KINDS:])
        return told | ({"files of other kinds": rest} if rest else {})


def entries(address: str, left_out: LeftOut | None = None, folder: str = "") -> Iterator[Entry]:
    """A folder's own entries, in no order. Hidden names, pipes, sockets and devices are no data and left out.

    left_out: is told these. folder: what comes before their names there. Raises UserError for a table, see TABLES.
    """
    filesystem, path = open_storage(address)
    listed = _local_entries if isinstance(filesystem, LocalFileSystem) else partial(_store_entries, filesystem)
    for entry in listed(address, path):
        if table := next((table for table, mark in TABLES.items() if re.fullmatch(mark, entry.name)), None):
            way = f"its files hold rows that it has replaced or removed. Read {table} with its own reader and write Parquet files"
            raise UserError(f"{shown(address)}: {table}, by its {entry.name}; {way}")
        if entry.size >= 0 and not is_hidden(entry.name, entry.is_folder):
            yield entry
        elif left_out is not None:
            left_out.add(HIDDEN if entry.size >= 0 else "pipes, sockets and devices", join(folder, entry.name))


def _local_entries(address: str, path: str) -> Iterator[Entry]:
    with patiently(partial(os.scandir, path), address, "list") as found, storage_errors(address, "list"):
        for item in found:  # as a stream, where pyarrow would build the whole list
            try:
                with storage_errors(address, "list"):
                    info = item.stat()
            except Gone:
                yield Entry(item.name, 0, False)  # a link that leads nowhere
                continue
            is_folder = stat.S_ISDIR(info.st_mode)
            yield Entry(item.name, 0 if is_folder else info.st_size if stat.S_ISREG(info.st_mode) else -1, is_folder)


def _store_entries(filesystem: FileSystem, address: str, path: str) -> Iterator[Entry]:
    listed: list[FileInfo] = patiently(partial(filesystem.get_file_info, FileSelector(path)), address, "list")
    for info in listed:
        name = info.path.removeprefix(path).strip("/")
        if name in ("", ".", ".."):
            found = filesystem.get_file_info(FileSelector(path, recursive=True))
            key = next((each.path for each in found if f"/{name}/" in f"{each.path}/" and each.type == FileType.File), path)
            why = f"its key {key!r} has a part {name!r} between slashes, which the store's clients cannot address"
            raise UserError(f"{shown(address)}: {why}; rename it or remove it")
        if info.type != FileType.Unknown:
            yield Entry(name, info.size or 0, info.type == FileType.Directory)


def walk(
    base: str, folder: str, extensions: tuple[str, ...], left_out: LeftOut | None = None, depth: int = 0
) -> Iterator[tuple[str, int]]:
    """(path below base, size) of the files under a folder: its own by name, then those of its folders by name.

    base: an address. left_out: is told the files of other extensions, hidden names, and folders in which nothing is found.
    """
    if depth > MAX_DEPTH:
        raise UserError(f"{folder}: nested deeper than {MAX_DEPTH} folders; remove the symbolic link that leads back")
    folders, empty = [], True
    for entry in sorted(entries(below(base, folder) if folder else base, left_out, folder)):
        if entry.is_folder:
            folders.append(entry.name)
        elif has_extension(entry.name, extensions):
            empty = False
            yield join(folder, entry.name), entry.size
        elif left_out is not None:
            left_out.add_file(join(folder, entry.name))
    if depth and empty and not folders and left_out is not None:
        left_out.add("folders without data", folder)
    for name in folders:
        yield from walk(base, join(folder, name), extensions, left_out, depth + 1)


SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""What data sets call their splits, and which is meant: as `datasets` has it."""
PARTS = re.compile(r"(.*?)([0-9]+)-of-([0-9]{1,6})(.*)")
"""How many files there are of a kind, in each one's name: train-00000-of-00014.parquet."""
MOST_NAMES = 10**6  # That a pattern may stand for


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

    def files(self, left_out: LeftOut | None = None) -> list[tuple[str, int]]:
        """(path below the folder, size), sorted. Raises UserError for a name that is not there, or if nothing matches."""
        left_out = left_out or LeftOut()
        if self.names is None:
            found = sorted(walk(self.folder, "", self.extensions, left_out))
        else:
            found = self._matching(self.names, {entry.name: entry.size for entry in entries(self.folder) if not entry.is_folder})
        if self.split is not None:
            splits = {name: (split_of(name) or ("no name",))[0] for name, _ in found}
            found = [file for file in found if splits[file[0]] == self.split]
            for name, split in splits.items():
                if split != self.split:
                    left_out.add(f"files of split {split}", name)
        if self.names is None:
            for name, count in missing_parts(name for name, _ in found):
                left_out.add("files not there, by the names of the others", name, count)
        if not found:
            raise UserError(f"{shown(below(self.folder, self.names or ''))}: nothing here matches")
        return found

    def of_split(self, split: str | None) -> "FileSet":
        """The files of one split: the one that is asked for, else validation where every file is of one and there are several.

        Raises UserError where that split is not there, and where files are called like splits, but not all alike.
        """
        if split is None and self.names is not None:
            return self
        names = [name for name, _ in self.files()]
        found = {name: split_of(name) for name in names}
        there = sorted({each[0] for each in found.values() if each})
        if split is None:
            alike = Counter(form for _, form in {each for each in found.values() if each})
            if len(there) < 2 or (None in found.values() and max(alike.values()) < 2):
                return self
            if len(alike) > 1 or None in found.values():
                one, other = next((a, b) for a, b in pairwise(names) if (found[a] or ("", ""))[1] != (found[b] or ("", ""))[1])
                way = "add ?split=<name>, or give the files that are meant with a pattern such as *"
                raise UserError(f"{shown(self.folder)}: {one} and {other} may be splits or not; {way}")
        wanted = SPLITS.get(split or "validation", split)
        if wanted not in there:
            has = f"it has {', '.join(there)}" if there else "its files' names tell no splits"
            way = "add ?split=<name>, or give the files"
            raise UserError(f"{shown(self.folder)}: no split {split or 'validation'!r}; {has}: {way}")
        return replace(self, split=wanted)

    def check_no_table(self) -> None:
        """Raise UserError where the folder is a part of a table whose own files lie above it."""
        folder, name = parent(self.folder)
        while folder not in (".", "/") and ("=" in name or name == "data" or re.fullmatch(r"bucket-[0-9]+", name)):
            if any(entry.is_folder and entry.name == "metadata" for entry in entries(folder)):
                list(entries(below(folder, "metadata")))
            folder, name = parent(folder)

    def _matching(self, pattern: str, there: dict[str, int]) -> list[tuple[str, int]]:
        if pattern in there:  # as it stands, whatever characters it has
            return [(pattern, there[pattern])]
        names = expand_braces(pattern)
        if missing := {name for name in names if not re.search(r"[*?]", name)} - there.keys():
            raise UserError(f"{shown(below(self.folder, min(missing)))}: no such file")
        matches = re.compile("|".join(re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in names), re.DOTALL)
        return [(name, size) for name, size in sorted(there.items()) if matches.fullmatch(name)]


def split_of(path: str) -> tuple[str, str] | None:
    """(split, form) of a file, by a word in its name (validation-00000-of-00014.parquet) or a folder's whole name.

    The form is the path with the word and all numbers taken out: files of a split are named alike. None without a split, or
    with several.
    """
    *folders, name = path.lower().split("/")
    parts = [*(part.rpartition("=")[2] for part in folders), *re.split(r"([-._ ]+)", name)]
    found = [i for i, part in enumerate(parts) if part in SPLITS]
    places = [i for i in found if i >= len(folders)] or found
    if len({SPLITS[parts[i]] for i in places}) != 1:
        return None
    rest = ["*" if i in places else re.sub(r"[0-9]+", "0", part) for i, part in enumerate(parts)]
    return SPLITS[parts[places[0]]], "/".join(rest)


def missing_parts(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(the first name, how many) of the files that are not there, where names say how many there are; see PARTS."""
    there = defaultdict[tuple[str, str, str], set[str]](set)
    for found in filter(None, map(PARTS.fullmatch, names)):
        there[found[1], found[3], found[4]].add(found[2])
    for (before, of, after), numbers in there.items():
        every = [f"{number:0{len(min(numbers))}d}" for number in range(int(of) + 1)]
        from_one = every[0] not in numbers and every[-1] in numbers
        if lacking := [number for number in every[from_one : int(of) + from_one] if number not in numbers]:
            yield f"{before}{lacking[0]}-of-{of}{after}", len(lacking)


def expand_braces(pattern: str) -> list[str]:
    """The names a shell would make of {a,b} and {000..010}: "x-{08..10}.tar" -> x-08.tar, x-09.tar, x-10.tar."""
    spans = re.findall(r"\{([0-9]+)\.\.([0-9]+)\}", pattern)
    if math.prod(max(1, int(last) - int(first) + 1) for first, last in spans) > MOST_NAMES:
        raise UserError(f"{pattern}: names more than {MOST_NAMES:,} files; write * for the numbers")
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    if span := re.fullmatch(r"([0-9]+)\.\.([0-9]+)", found[1]):
        first, last = span.groups()
        choices = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    else:
        choices = found[1].split(",")
    return [name for choice in choices for name in expand_braces(pattern[: found.start()] + choice + pattern[found.end() :])]
