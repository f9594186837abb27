"""The predictions on disk: one Parquet file a chunk, named by the chunk and written whole or not at all.

A chunk that is classified twice (a retry, a lost host, a late worker of a dead job) overwrites its own file with the same rows,
so every image is there exactly once without any coordination, and what is not there is what a resumed run has left to do.
"""

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from jobs.pipeline.schema import PREDICTIONS, named_rows
from jobs.storage.address import below, shown
from jobs.storage.failure import Damaged, Refused, decoding
from jobs.storage.files import (
    SteadyFile,
    delete,
    listed,
    look,
    named,
    open_storage,
    parquet_files,
    read_twice,
    write_table,
)
from vit_actor.errors import UserError

FOOTER = b"loudbox-vit"  # Key of the Parquet footer entry that says, as JSON, which run, attempt, chunk and mesh a file is of
PART = re.compile(r"part-([0-9]{6})\.parquet")  # Name of a file that holds the rows of many chunks: of a run that was complete
READERS = 16
MOST_FOOTERS = 4096  # Files whose rows are counted once more at the end of a run
_OF_A_CHUNK = ("chunk", "rows", "read_cpu_seconds", "shared_batches")
"""What differs from chunk to chunk in a footer; the rest is a few meshes' and attempts'."""


@dataclass(frozen=True)
class Predictions:
    """The directory `<out>/predictions` of a run.

    in_parts: chunks that are in files of many; see `chunks_in_parts`.
    doubtful: chunks whose files are to be replaced. class_names: the checkpoint's, which rows are given.
    """

    out: str
    in_parts: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    class_names: tuple[str, ...] = ()

    def is_committed(self, chunk: str) -> bool:
        """Whether a chunk's rows are there, to stay; they are whole then."""
        if chunk in self.doubtful or chunk in self.in_parts:
            return chunk not in self.doubtful
        return look(self.out, self._place(chunk)).type == fs.FileType.File

    def commit(self, chunk: str, rows: pa.Table, footer: dict[str, Any]) -> None:
        """Write a chunk's rows (schema ANSWERS) with the names of their classes; visible only when whole. Raises StorageError."""
        names = pa.array(self.class_names, pa.string())
        write_rows(*self._place(chunk), [named_rows(rows, names)], json.dumps(footer, sort_keys=True).encode())

    def discard(self, chunks: Sequence[str]) -> None:
        """Take back chunks that have files of their own, where they are there and may be deleted. Raises StorageError."""
        with ThreadPoolExecutor(READERS) as deleters, suppress(Refused):
            list(deleters.map(lambda chunk: delete(*self._place(chunk)), chunks))

    def _place(self, chunk: str) -> tuple[fs.FileSystem, str]:
        filesystem, path = open_storage(self.out)
        return filesystem, f"{path}/predictions/{chunk}.parquet"


def write_rows(filesystem: fs.FileSystem, path: str, rows: Sequence[pa.Table], footer: bytes) -> None:
    """Write rows (schema PREDICTIONS) one after the other as one file. Raises StorageError."""
    whole = pa.concat_tables(rows).unify_dictionaries()
    write_table(filesystem, path, whole.replace_schema_metadata({**PREDICTIONS.metadata, FOOTER: footer}))


def chunks_in_parts(out: str) -> frozenset[str]:
    """The chunks whose rows are in files of many, as those say themselves. Raises UserError where storage fails."""
    filesystem, _ = open_storage(out)
    parts = [entry.path for entry in listed(below(out, "predictions")) if PART.fullmatch(entry.base_name)]
    try:
        with decoding():
            return frozenset(footer["chunk"] for part in parts for footer in footers_of(_metadata(filesystem, part)))
    except Damaged as damage:
        raise UserError(f"{shown(out)}: a file of predictions is damaged ({damage}); add --resume to do it again") from None


def read_footers(filesystem: fs.FileSystem, file: str) -> list[dict[str, Any]]:
    """`footers_of` a file of predictions; none of a damaged one."""
    try:
        with decoding():
            return footers_of(_metadata(filesystem, file))
    except Damaged:
        return []


def _metadata(filesystem: fs.FileSystem, file: str) -> pq.FileMetaData:
    """Raises Damaged where it is no Parquet, twice; StorageError."""

    def read() -> pq.FileMetaData:
        with SteadyFile(named(filesystem, file), opened=(filesystem, file)) as steady, decoding():
            return pq.read_metadata(steady)

    return read_twice(named(filesystem, file), read)


def footers_of(metadata: pq.FileMetaData) -> list[dict[str, Any]]:
    """A footer for each chunk whose rows a file holds, in the rows' order, with their number as `rows`.

    Raises KeyError, TypeError or ValueError for what no run wrote.
    """
    footer = json.loads(metadata.metadata[FOOTER])
    if "chunks" not in footer:
        return [footer | {"rows": metadata.num_rows}]
    return [footer["origins"][origin] | dict(zip(_OF_A_CHUNK, own, strict=True)) for origin, *own in footer["chunks"]]


def part_footer(footers: Sequence[dict[str, Any]]) -> bytes:
    """The footer of a file that holds these chunks' rows, one after the other."""
    origins: dict[str, int] = {}
    chunks = []
    for footer in footers:
        origin = json.dumps({key: value for key, value in footer.items() if key not in _OF_A_CHUNK}, sort_keys=True)
        chunks.append([origins.setdefault(origin, len(origins)), *(footer.get(key) for key in _OF_A_CHUNK)])
    return json.dumps({"origins": [json.loads(origin) for origin in origins], "chunks": chunks}).encode()


def committed_rows(out: str, is_checked: Callable[[dict[str, Any]], bool]) -> tuple[int, int] | None:
    """Rows of the predictions in an output, and chunks that no check followed, by the files' footers.

    None where there are more files than that is worth. is_checked: see `manifest.checked`.
    """
    filesystem, path = open_storage(out)
    files = list(islice(parquet_files(filesystem, f"{path}/predictions"), MOST_FOOTERS + 1))
    if len(files) > MOST_FOOTERS:
        return None
    with ThreadPoolExecutor(READERS) as readers:
        try:
            rows = unchecked = 0
            for metadata in readers.map(partial(_metadata, filesystem), files):
                rows += metadata.num_rows
                with decoding():
                    unchecked += sum(not is_checked(footer) for footer in footers_of(metadata))
            return rows, unchecked
        except Damaged as damage:
            raise UserError(f"{shown(out)}: a file of predictions is damaged ({damage})") from None


def committed_files(out: str) -> list[int]:
    """[files, bytes] of the predictions in an output: what a listing tells of whether all are there."""
    entries = listed(below(out, "predictions"), recursive=True)
    sizes = [entry.size or 0 for entry in entries if entry.type == fs.FileType.File and entry.path.endswith(".parquet")]
    return [len(sizes), sum(sizes)]
