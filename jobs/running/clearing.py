"""What may be done to an output: whether files may be written and deleted there, and which of them runs wrote."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from jobs.pipeline.commit import FOOTER, PART
from jobs.storage.address import below, shown
from jobs.storage.failure import Damaged, Refused, decoding, patiently
from jobs.storage.files import delete, forget_cached, named, open_storage, read_whole, write_atomically
from vit_actor.errors import UserError

FOLDERS = ("predictions", "report", "compared", "runs")  # Folders of an output that a run writes to

PROBE = ".probe"  # A file that is written and deleted to see whether that is allowed

READERS = 16
GENERATOR = '<meta name="generator" content="loudbox-vit">'  # How a page of this project is known
EARLIER = b"default-src 'none'; style-src 'unsafe-inline'; img-src"
"""How one of an earlier version is: by the beginning of its content policy."""
_CHUNK = re.compile(r".*-[0-9]{6}-[0-9a-f]{16}\.[0-9]{5}\.parquet")  # A file of predictions, by its name alone: it may be damaged
_LOADGEN = re.compile(r"mlperf_log_\w+\.(txt|json)")
_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{32}\.part")


def check_output(out: str) -> bool:
    """Write a file in the output, replace it and delete it: whether it can be deleted, as merging predictions needs.

    Raises Refused, which names the operation, where one of the others is not allowed; StorageError where storage fails.
    """
    filesystem, path = open_storage(below(out, PROBE))
    write_atomically(filesystem, path, b"1")
    write_atomically(filesystem, path, b"2", operation="replace")
    try:
        delete(filesystem, path)
    except Refused:
        return False
    return True


def clear_run(out: str) -> None:
    """Delete what earlier runs wrote in `out`: predictions, reports, comparisons, rounds.

    Raises UserError, and deletes nothing, where there is anything in between that no run wrote.
    """
    patiently(partial(_clear, out), out, "replace")


def _clear(out: str) -> None:
    filesystem, path = open_storage(out)
    with ThreadPoolExecutor(READERS) as readers:
        found = [file for folder in FOLDERS for file in _files(filesystem, f"{path}/{folder}")]
        found += [info for info in filesystem.get_file_info([f"{path}/report.html"]) if info.type == FileType.File]
        written = readers.map(lambda file: is_written_by_a_run(filesystem, file), found)
        foreign = [file.path for file, ours in zip(found, written, strict=True) if not ours]
        if foreign:
            more = f" and {len(foreign) - 1:,} more files" if len(foreign) > 1 else ""
            name = min(foreign).removeprefix(f"{path}/")
            raise UserError(f"--overwrite: {shown(out)} holds {name}{more} that no run wrote; move them, or choose another --out")
        list(readers.map(partial(delete, filesystem), [file.path for file in found]))
        if isinstance(filesystem, LocalFileSystem):  # all are empty now; in an object store folders are only names
            for folder in FOLDERS:
                if filesystem.get_file_info(f"{path}/{folder}").type == FileType.Directory:
                    filesystem.delete_dir(f"{path}/{folder}")


def refuse_foreign_page(out: str) -> None:
    """Raise UserError where a report.html is in the way that no run wrote."""
    filesystem, path = open_storage(out)
    page = patiently(partial(filesystem.get_file_info, f"{path}/report.html"), out, "look at")
    if page.type == FileType.File and not is_written_by_a_run(filesystem, page):
        raise UserError(f"{shown(out)} holds a report.html that no run wrote; move it, or choose another directory")


def is_written_by_a_run(filesystem: FileSystem, file: FileInfo) -> bool:
    """By the footer of Parquet, the head of a page or a drawing, or the name of a chunk or of a broken-off write.

    Parquet without a readable footer is told by its name alone. A second read, past the page cache, decides.
    """
    if _is_ours(filesystem, file):
        return True
    forget_cached(named(filesystem, file.path))
    return _is_ours(filesystem, file)


def _is_ours(filesystem: FileSystem, file: FileInfo) -> bool:
    if any(name.fullmatch(file.base_name) for name in (_UNFINISHED, _CHUNK, _LOADGEN)):
        return True
    data = patiently(partial(read_whole, filesystem, file.path), named(filesystem, file.path), "read")
    if file.extension == "parquet":
        try:
            with decoding():
                schema = pq.read_schema(pa.BufferReader(data))
        except Damaged:
            return PART.fullmatch(file.base_name) is not None
        described = any(b"description" in (field.metadata or {}) for field in schema)
        return described or FOOTER in (schema.metadata or {})
    head = data[:4096].to_pybytes()
    page = GENERATOR.encode() in head or EARLIER in head
    return page or (file.base_name == "scaling.svg" and b"Matplotlib" in head)  # an earlier version's


def _files(filesystem: FileSystem, folder: str) -> Iterator[FileInfo]:
    entries = filesystem.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    return (entry for entry in entries if entry.type != FileType.Directory and entry.base_name not in (".lock", "manifest.json"))
