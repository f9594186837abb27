"""What may be done to an output: whether files may be written and deleted there, and which of them runs wrote."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from jobs.pipeline.commit import PART
from jobs.storage.address import below, shown
from jobs.storage.failure import Damaged, Refused, decoding, patiently
from jobs.storage.files import delete, forget_cached, named, open_storage, read_whole, write_atomically
from vit_actor.errors import UserError

FOLDERS = ("predictions", "report", "compared", "runs")  # Folders of an output that a run writes to
PROBE = ".probe"  # A file that is written and deleted to see whether that is allowed
READERS = 16
GENERATOR = '<meta name="generator" content="loudbox-vit">'  # How a page of this project is known
_OURS = re.compile(r".*-\d{6}-[0-9a-f]{16}\.\d{5}\.parquet|mlperf_log_\w+\.(txt|json)|\..*\.[0-9a-f]{32}\.part")
"""Files that are known by their names alone: predictions, which may be damaged, LoadGen's logs, and broken-off writes."""


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
    filesystem, path = open_storage(out)
    folders = [f"{path}/{folder}" for folder in FOLDERS]

    def clear() -> None:
        listings = [FileSelector(folder, recursive=True, allow_not_found=True) for folder in folders]
        found = [info for listing in listings for info in filesystem.get_file_info(listing)]
        found += filesystem.get_file_info([f"{path}/report.html"])
        found = [info for info in found if info.type == FileType.File]
        with ThreadPoolExecutor(READERS) as readers:
            written = readers.map(partial(is_written_by_a_run, filesystem), found)
            if foreign := [file.path for file, ours in zip(found, written, strict=True) if not ours]:
                more = f" and {len(foreign) - 1:,} more files" if len(foreign) > 1 else ""
                told = f"{shown(out)} holds {min(foreign).removeprefix(f'{path}/')}{more} that no run wrote"
                raise UserError(f"--overwrite: {told}; move them, or choose another --out")
            list(readers.map(partial(delete, filesystem), [file.path for file in found]))
        if isinstance(filesystem, LocalFileSystem):  # all are empty now; in an object store folders are only names
            for info in filesystem.get_file_info(folders):
                if info.type == FileType.Directory:
                    filesystem.delete_dir(info.path)

    patiently(clear, out, "replace")


def refuse_foreign_page(out: str) -> None:
    """Raise UserError where a report.html is in the way that no run wrote."""
    filesystem, path = open_storage(out)
    page = patiently(partial(filesystem.get_file_info, f"{path}/report.html"), out, "look at")
    if page.type == FileType.File and not is_written_by_a_run(filesystem, page):
        raise UserError(f"{shown(out)} holds a report.html that no run wrote; move it, or choose another directory")


def is_written_by_a_run(filesystem: FileSystem, file: FileInfo) -> bool:
    """By its name, the columns of Parquet, which say what they hold, or the head of a page.

    Parquet without a readable footer is told by its name alone. A second read, past the page cache, decides.
    """
    if _is_ours(filesystem, file):
        return True
    forget_cached(named(filesystem, file.path))
    return _is_ours(filesystem, file)


def _is_ours(filesystem: FileSystem, file: FileInfo) -> bool:
    if _OURS.fullmatch(file.base_name):
        return True
    data = patiently(partial(read_whole, filesystem, file.path), named(filesystem, file.path), "read")
    if file.extension != "parquet":
        return GENERATOR.encode() in data[:4096].to_pybytes()
    try:
        with decoding():
            schema = pq.read_schema(pa.BufferReader(data))
    except Damaged:
        return PART.fullmatch(file.base_name) is not None
    return any(b"description" in (field.metadata or {}) for field in schema)
