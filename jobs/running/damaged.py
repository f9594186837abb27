"""What a run that goes on classifies again: chunks whose file cannot be read, or with images that storage failed to give."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from jobs.pipeline.commit import FOOTER, PART, footers_of, part_footer
from jobs.running.clearing import READERS, is_written_by_a_run
from jobs.storage.failure import Damaged, decoding, is_by_storage, patiently
from jobs.storage.files import delete, named, open_storage, read_whole, write_table

MOST_FILES = 20_000
"""Files that are read through before a run goes on: half a minute. Of more, the report at the end says which are damaged."""


@dataclass
class Again:
    """damaged: names of files that could not be read, deleted. unread: images that storage had failed to give."""

    damaged: list[str] = field(default_factory=list)
    unread: int = 0


def discard(out: str) -> Again:
    """Take out of a run's predictions what it is to classify again, unless there are more than MOST_FILES.

    A damaged file that no run can have written stays; counting names it.
    """
    filesystem, path = open_storage(out)
    listing = FileSelector(f"{path}/predictions", allow_not_found=True)
    entries = patiently(partial(filesystem.get_file_info, listing), out, "list")
    files = [entry for entry in entries if entry.type == FileType.File and entry.extension == "parquet"]
    again = Again()
    if len(files) > MOST_FILES:
        return again
    with ThreadPoolExecutor(READERS) as readers:
        for file, unread in zip(files, readers.map(partial(_unread, filesystem), files), strict=True):
            if unread is None:
                if is_written_by_a_run(filesystem, file):
                    delete(filesystem, file.path)
                    again.damaged.append(file.base_name)
            elif unread:
                again.unread += sum(unread.values())
                _without(filesystem, file, unread.keys())
    return again


def _unread(filesystem: FileSystem, file: FileInfo) -> dict[str, int] | None:
    """Of each chunk of a file, images that storage failed to give; None where the file is damaged."""
    data = patiently(partial(read_whole, filesystem, file.path), named(filesystem, file.path), "read")
    try:
        with decoding():
            parquet = pq.ParquetFile(pa.BufferReader(data))
            footers = footers_of(parquet.metadata)
            whole = all(footer[key] is not None for footer in footers for key in ("run_id", "attempt", "chunk", "mesh"))
            rows = sum(batch.num_rows for batch in parquet.iter_batches(use_threads=False))  # never all of a file of a million
            if not whole or rows != sum(footer["rows"] for footer in footers):
                return None
            found, row = dict[str, int](), 0
            errors = parquet.read(["error"])["error"]
            for footer in footers:
                of_chunk = pc.drop_null(errors.slice(row, footer["rows"])).to_pylist()
                if count := sum(map(is_by_storage, of_chunk)):
                    found[footer["chunk"]] = count
                row += footer["rows"]
            return found
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
