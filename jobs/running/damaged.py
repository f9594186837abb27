"""What a run that goes on classifies again: chunks that are damaged, lack a check after them, or lack images that storage failed
to give."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from jobs.pipeline.commit import FOOTER, PART, footers_of, part_footer
from jobs.running.chip_checks import Attempts, checked
from jobs.running.clearing import READERS, is_written_by_a_run
from jobs.storage.failure import Damaged, decoding, is_by_storage, patiently
from jobs.storage.files import delete, named, open_storage, read_twice, read_whole, write_table

CHECKED = ("classified", "incomplete", "finished")  # How an attempt ends that has left no chunk without a passed check after it
MOST_FILES = 20_000
"""Files that are read through before a run goes on: half a minute. Of more, the report at the end says which are damaged."""


@dataclass
class Discarded:
    """damaged: names of files that could not be read, deleted. unread: images that storage had failed to give.
    unchecked: chunks that no passed check followed."""

    damaged: list[str] = field(default_factory=list)
    unread: int = 0
    unchecked: int = 0


def discard(out: str, attempts: Attempts) -> Discarded:
    """Take out of a run's predictions what it is to classify again; of more than MOST_FILES, only where some may be unchecked.

    A damaged file that no run can have written stays; counting names it.
    """
    filesystem, path = open_storage(out)
    listing = FileSelector(f"{path}/predictions", allow_not_found=True)
    entries = patiently(partial(filesystem.get_file_info, listing), out, "list")
    files = [entry for entry in entries if entry.type == FileType.File and entry.extension == "parquet"]
    again = Discarded()
    if len(files) > MOST_FILES and (not attempts or attempts[-1]["state"] in CHECKED):
        return again
    is_checked = checked(attempts)
    with ThreadPoolExecutor(READERS) as readers:
        for file, unread in zip(files, readers.map(partial(_unread, filesystem, is_checked), files), strict=True):
            if unread is None:
                if is_written_by_a_run(filesystem, file):
                    delete(filesystem, file.path)
                    again.damaged.append(file.base_name)
            elif unread:
                again.unread += sum(unread.values())
                again.unchecked += list(unread.values()).count(0)
                _without(filesystem, file, unread.keys())
    return again


def _unread(filesystem: FileSystem, is_checked: Callable[[dict[str, Any]], bool], file: FileInfo) -> dict[str, int] | None:
    """The chunks of a file to be classified again, and of each the images that storage failed to give; None of a damaged file."""

    def read() -> dict[str, int] | None:
        data = patiently(partial(read_whole, filesystem, file.path), named(filesystem, file.path), "read")
        with decoding():
            parquet = pq.ParquetFile(pa.BufferReader(data))
            footers = footers_of(parquet.metadata)
            whole = all(footer[key] is not None for footer in footers for key in ("run_id", "attempt", "chunk", "mesh"))
            rows = sum(batch.num_rows for batch in parquet.iter_batches(use_threads=False))  # never all of a file of a million
            if not whole or rows != sum(footer["rows"] for footer in footers):
                raise ValueError("not the rows or the footers that a run writes")
            found, row = dict[str, int](), 0
            errors = parquet.read(["error"])["error"]
            for footer in footers:
                of_chunk = pc.drop_null(errors.slice(row, footer["rows"])).to_pylist()
                count = sum(map(is_by_storage, of_chunk))
                if count or not is_checked(footer):
                    found[footer["chunk"]] = count
                row += footer["rows"]
            return found

    try:
        return read_twice(named(filesystem, file.path), read)
    except Damaged:
        return None


def _without(filesystem: FileSystem, file: FileInfo, chunks: object) -> None:
    """Take chunks out of a file: all of it, where it holds no others."""
    if not PART.fullmatch(file.base_name):
        delete(filesystem, file.path)
        return
    data = patiently(partial(read_whole, filesystem, file.path), named(filesystem, file.path), "read")
    table = pq.read_table(pa.BufferReader(data), use_threads=False)
    kept, footers, row = [], [], 0
    for footer in footers_of(pq.read_metadata(pa.BufferReader(data))):
        if footer["chunk"] not in chunks:  # type: ignore[operator]
            kept.append(table.slice(row, footer["rows"]))
            footers.append(footer)
        row += footer["rows"]
    if not kept:
        delete(filesystem, file.path)
        return
    about = {**table.schema.metadata, FOOTER: part_footer(footers)}
    write_table(filesystem, file.path, pa.concat_tables(kept).replace_schema_metadata(about))
