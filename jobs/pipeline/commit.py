"""The predictions on disk: one Parquet file a chunk, named by the chunk and written whole or not at all.

A chunk that is classified twice (a retry, a lost host, a late worker of a dead job) overwrites its own file with the
same rows, so every image is there exactly once without any coordination, and what is not there is what a resumed run
has left to do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyarrow import fs

from jobs.pipeline.schema import PREDICTIONS
from jobs.pipeline.storage import open_storage, storage_errors, write_table

FOOTER = b"loudbox-vit"
"""Key of the Parquet footer entry that says, as JSON, which run, attempt, chunk and mesh a file is of."""


@dataclass(frozen=True)
class Predictions:
    """The directory `<out>/predictions` of a run."""

    out: str

    @cached_property
    def _storage(self) -> tuple[fs.FileSystem, str]:
        filesystem, path = open_storage(self.out)
        return filesystem, f"{path}/predictions"

    def __getstate__(self) -> dict[str, Any]:
        return {"out": self.out}

    def is_committed(self, chunk: str) -> bool:
        """Whether a chunk's file is there; it is whole then."""
        filesystem, _ = self._storage
        return filesystem.get_file_info(self._path(chunk)).type == fs.FileType.File

    def commit(self, chunk: str, rows: pa.Table, footer: dict[str, Any]) -> None:
        """Write a chunk's rows (schema PREDICTIONS); visible only when whole. Raises UserError where storage fails."""
        filesystem, _ = self._storage
        schema = PREDICTIONS.with_metadata({**PREDICTIONS.metadata, FOOTER: json.dumps(footer, sort_keys=True).encode()})
        with storage_errors(self.out):
            write_table(filesystem, self._path(chunk), rows.cast(schema))

    def _path(self, chunk: str) -> str:
        return f"{self._storage[1]}/{chunk}.parquet"


def committed_files(out: str) -> list[int]:
    """[files, bytes] of the predictions in an output: what a listing tells of whether all are there."""
    filesystem, path = open_storage(out)
    with storage_errors(out):
        entries = filesystem.get_file_info(fs.FileSelector(f"{path}/predictions", recursive=True, allow_not_found=True))
        sizes = [entry.size or 0 for entry in entries if entry.type == fs.FileType.File and entry.path.endswith(".parquet")]
    return [len(sizes), sum(sizes)]
