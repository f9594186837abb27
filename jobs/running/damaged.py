"""Files of predictions that cannot be read any more: a run that goes on deletes them, and so classifies their images again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from jobs.pipeline.commit import footers_of
from jobs.running.clearing import READERS, is_written_by_a_run
from jobs.storage import open_storage, storage_errors

MOST_FILES = 20_000
"""Files that are read through before a run goes on: half a minute. Of more, the report at the end says which are damaged."""


def discard_damaged(out: str) -> list[str]:
    """Delete the damaged files of a run's predictions, unless there are more than MOST_FILES; returns their names.

    A damaged file that no run can have written stays; counting names it.
    """
    filesystem, path = open_storage(out)
    with storage_errors(out), ThreadPoolExecutor(READERS) as readers:
        entries = filesystem.get_file_info(FileSelector(f"{path}/predictions", allow_not_found=True))
        files = [entry for entry in entries if entry.type == FileType.File and entry.extension == "parquet"]
        if len(files) > MOST_FILES:
            return []
        sound = readers.map(lambda file: _is_sound(filesystem, file), files)
        damaged = [file for file, whole in zip(files, sound, strict=True) if not whole and is_written_by_a_run(filesystem, file)]
        list(readers.map(filesystem.delete_file, [file.path for file in damaged]))
    return sorted(file.base_name for file in damaged)


def _is_sound(filesystem: FileSystem, file: FileInfo) -> bool:
    with filesystem.open_input_stream(file.path) as stream:
        data = stream.readall()
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        footers = footers_of(parquet.metadata)
        rows = sum(batch.num_rows for batch in parquet.iter_batches(use_threads=False))  # never all of a file of a million
        whole = rows == sum(footer["rows"] for footer in footers)
        return whole and all(footer[key] is not None for footer in footers for key in ("run_id", "attempt", "chunk", "mesh"))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return False
