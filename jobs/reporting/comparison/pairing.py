"""The images of two runs side by side, read as a stream, for files of any size, number and order."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import batched
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.reporting.reduction import list_predictions
from jobs.storage import open_storage, storage_errors
from vit_actor.errors import UserError

READERS = 8
"""Pairs of files in flight: hides an object store's latency."""

PARTS = 64
"""Parts that images without a partner in their file are spread over on disk; one of them at a time is in memory."""

SPILLED = 100_000
"""Rows that go to disk together."""

SIDE = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("prediction", pa.int32()),
        pa.field("probability", pa.float32()),
        pa.field("error", pa.string()),
    ]
)
"""What is kept of one run's row; probability is that of the prediction."""

Sides = tuple[pa.Table, pa.Table]


def paired(a: str, b: str) -> Iterator[Sides]:
    """Tables (schema SIDE) of equal length whose rows are the same image in run `a` and in run `b`, or, at the end, one
    table of images that the other run does not have beside an empty one.

    Files have the same name in both runs where the data set is the same, so row groups of one name are joined as they come.
    Images that find no partner there wait on disk until all files are read, and are joined with each other, part by part.
    """
    names_a, names_b = _files(a), _files(b)
    shared = sorted(names_a.keys() & names_b.keys())
    with TemporaryDirectory() as directory, ThreadPoolExecutor(READERS) as readers:
        waiting_a, waiting_b = _Waiting(f"{directory}/a"), _Waiting(f"{directory}/b")

        def join_groups(name: tuple[str, int]) -> tuple[Sides, Sides]:
            return _join(_read(a, names_a[name], name[1]), _read(b, names_b[name], name[1]))

        for some in batched(shared, 32 * READERS):
            for both, (only_a, only_b) in readers.map(join_groups, some):
                yield both
                waiting_a.add(only_a)
                waiting_b.add(only_b)
        for out, names, other, waiting in ((a, names_a, names_b, waiting_a), (b, names_b, names_a, waiting_b)):
            for some in batched(sorted(names.keys() - other.keys()), 32 * READERS):
                for rows in readers.map(lambda name, out=out, names=names: _read(out, names[name], name[1]), some):
                    waiting.add(rows)
            waiting.spill()
        for part in range(PARTS):
            both, (only_a, only_b) = _join(waiting_a.part(part), waiting_b.part(part))
            yield both
            yield only_a, SIDE.empty_table()
            yield SIDE.empty_table(), only_b


def _join(a: pa.Table, b: pa.Table) -> tuple[Sides, Sides]:
    """Rows of the same images, in the order of `a`, and rows of images that only one of the two has."""
    if a["image_id"].equals(b["image_id"]):
        return (a, b), (a.slice(0, 0), b.slice(0, 0))
    partner = pc.index_in(a["image_id"], value_set=b["image_id"])
    lonely = pc.invert(pc.is_in(b["image_id"], value_set=a["image_id"]))
    both = a.filter(partner.is_valid()), b.take(partner.drop_null())
    return both, (a.filter(partner.is_null()), b.filter(lonely))


class _Waiting:
    """Rows (schema SIDE) of one run on local disk, in PARTS files by a hash of the image id: equal ids, equal part."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._rows = [SIDE.empty_table()]
        self._count = 0

    def add(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self._rows.append(rows)
            self._count += rows.num_rows
        if self._count >= SPILLED:
            self.spill()

    def spill(self) -> None:
        """Put what is still in memory on disk."""
        rows, self._rows, self._count = pa.concat_tables(self._rows), [SIDE.empty_table()], 0
        os.makedirs(self._directory, exist_ok=True)
        part = np.array([zlib.crc32(image_id.encode()) % PARTS for image_id in rows["image_id"].to_pylist()])
        for each in np.unique(part):
            of = rows.filter(pa.array(part == each)).combine_chunks()
            with open(self._path(each), "ab") as file, pa.ipc.new_stream(file, SIDE) as stream:
                stream.write_table(of)

    def part(self, number: int) -> pa.Table:
        if not os.path.exists(self._path(number)):
            return SIDE.empty_table()
        tables = []
        with open(self._path(number), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while file.tell() < size:
                tables.append(pa.ipc.open_stream(file).read_all())
        return pa.concat_tables(tables)

    def _path(self, number: int) -> str:
        return f"{self._directory}/{number}.arrows"


def _files(out: str) -> dict[tuple[str, int], str]:
    """The row groups of a run's prediction files, by the file's path below its predictions and their number in it."""
    filesystem, path = open_storage(out)
    folder = f"{path}/predictions"
    with storage_errors(out):
        parts, chunks, _ = list_predictions(filesystem, path)
        groups = {(file[len(folder) :], 0): file for file in chunks}
        for file in parts:
            with filesystem.open_input_file(file) as stream, _damage(file):
                groups |= {(file[len(folder) :], group): file for group in range(pq.read_metadata(stream).num_row_groups)}
    return groups


def _read(out: str, file: str, group: int) -> pa.Table:
    """One row group of a file of predictions (schema SIDE); raises UserError for a damaged one."""
    filesystem, _ = open_storage(out)
    columns = ["image_id", "label", "prediction", "top5_probability", "error"]
    with storage_errors(file), filesystem.open_input_file(file) as stream, _damage(file):
        rows = pq.ParquetFile(stream).read_row_group(group, columns, use_threads=False)
        return rows.set_column(3, "probability", pc.list_element(rows["top5_probability"], 0)).cast(SIDE)


@contextmanager
def _damage(file: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, KeyError, ValueError):
        raise UserError(f"{file}: damaged, or not a file of predictions; add --resume to its job to do it again") from None
