"""What a run that goes on classifies again: chunks that are damaged, lack a check after them, or lack images that storage failed
to give."""

from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from jobs.pipeline.commit import FOOTER, PART, footers_of, part_footer
from jobs.running.clearing import READERS, is_written_by_a_run
from jobs.running.manifest import Attempts, checked
from jobs.running.words import some
from jobs.storage.failure import Damaged, is_by_storage, patiently
from jobs.storage.files import delete, named, open_storage, read_as, read_whole, write_table

CHECKED = ("classified", "incomplete", "finished")  # How an attempt ends that has left no chunk without a passed check after it
MOST_FILES = 20_000
"""Files that are read through before a run goes on: half a minute. Of more, the report at the end says which are damaged."""
NAMED = 5  # Damaged files that are named


def discard(out: str, attempts: Attempts) -> list[str]:
    """Take out of a run's predictions what it is to classify again, and say what that is, in lines.

    Of more than MOST_FILES, only where some may be unchecked. A damaged file that no run can have written stays; counting
    names it.
    """
    filesystem, path = open_storage(out)
    listing = FileSelector(f"{path}/predictions", allow_not_found=True)
    entries = patiently(partial(filesystem.get_file_info, listing), out, "list")
    files = [entry for entry in entries if entry.type == FileType.File and entry.extension == "parquet"]
    if len(files) > MOST_FILES and (not attempts or attempts[-1]["state"] in CHECKED):
        return []
    damaged, unread, unchecked = list[str](), 0, 0
    with ThreadPoolExecutor(READERS) as readers:
        for file, again in zip(files, readers.map(partial(_again, filesystem, checked(attempts)), files), strict=True):
            if again:
                unread += sum(again.values())
                unchecked += list(again.values()).count(0)
                _without(filesystem, file, again)
            elif again is None and is_written_by_a_run(filesystem, file):
                delete(filesystem, file.path)
                damaged.append(file.base_name)
    told = [f"damaged files, deleted so that their images are classified again: {some(sorted(damaged), NAMED)}"] * bool(damaged)
    told += [f"no check of chips followed {unchecked:,} of the chunks, which are classified again"] * bool(unchecked)
    told += [f"storage had failed to give {unread:,} of the images, which are read again"] * bool(unread)
    return told


def _again(filesystem: FileSystem, is_checked: Callable[[dict[str, Any]], bool], file: FileInfo) -> dict[str, int] | None:
    """The chunks of a file to be classified again, and of each the images that storage failed to give; None of a damaged file."""

    def take(data: pa.Buffer) -> dict[str, int]:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        footers = footers_of(parquet.metadata)
        whole = all(footer[key] is not None for footer in footers for key in ("run_id", "attempt", "chunk", "mesh"))
        rows = sum(batch.num_rows for batch in parquet.iter_batches(use_threads=False))  # never all of a file of a million
        if not whole or rows != sum(footer["rows"] for footer in footers):
            raise ValueError("not the rows or the footers that a run writes")
        found, row = dict[str, int](), 0
        errors = parquet.read(["error"])["error"]
        for footer in footers:
            count = sum(map(is_by_storage, pc.drop_null(errors.slice(row, footer["rows"])).to_pylist()))
            if count or not is_checked(footer):
                found[footer["chunk"]] = count
            row += footer["rows"]
        return found

    try:
        return read_as(named(filesystem, file.path), take, (filesystem, file.path))
    except Damaged:
        return None


def _without(filesystem: FileSystem, file: FileInfo, chunks: Container[str]) -> None:
    """Take chunks out of a file: all of it, where it holds no others."""
    kept, footers, row = [], [], 0
    if PART.fullmatch(file.base_name):
        data = patiently(partial(read_whole, filesystem, file.path), named(filesystem, file.path), "read")
        table = pq.read_table(pa.BufferReader(data), use_threads=False)
        for footer in footers_of(pq.read_metadata(pa.BufferReader(data))):
            if footer["chunk"] not in chunks:
                kept.append(table.slice(row, footer["rows"]))
                footers.append(footer)
            row += footer["rows"]
    if not kept:
        delete(filesystem, file.path)
        return
    about = {**table.schema.metadata, FOOTER: part_footer(footers)}
    write_table(filesystem, file.path, pa.concat_tables(kept).replace_schema_metadata(about))
