"""Data sets as the `datasets` library keeps them on disk: its cache of what was loaded, or a folder of save_to_disk.

Its files are Arrow streams. They are mapped into memory for what says where the rows are; images are read, since a mapped read
that fails ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import LocalFileSystem

from jobs.pipeline.labels import LabelSpace
from jobs.pipeline.sources.listing import FileSet, LeftOut
from jobs.pipeline.sources.parquet_columns import Columns, Rows, label_errors
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable, shard_id
from jobs.storage.address import below, shown
from jobs.storage.failure import Damaged, decoding, patiently
from jobs.storage.files import SteadyFile, open_storage, read_twice
from vit_actor.errors import UserError

READ_ROWS = 64
"""Rows taken from the mapped file at a time."""


@dataclass(frozen=True)
class ArrowFiles:
    """Rows of Arrow files, in the order of the files' names. An image's id is `file.arrow#row`.

    label_column: as for Parquet.
    """

    files: FileSet
    space: LabelSpace
    use_labels: bool
    label_column: str | None
    limit: int | None
    images_per_shard: int

    @property
    def folder(self) -> str:
        return self.files.folder

    def shards(self) -> Generator[Shard, None, Survey]:
        images, left_out = 0, LeftOut()
        found = Rows(self.space, left_out)
        for name, size in self.files.files(left_out):
            table, columns, _ = self._open(name)
            with label_errors(below(self.files.folder, name)):
                found.add(name, table.num_rows, self._words(table, columns), columns)
            rows = table.num_rows if self.limit is None else min(table.num_rows, self.limit - images)
            for position, first in enumerate(range(0, rows, self.images_per_shard)):
                count = min(self.images_per_shard, rows - first)
                payload = {"file": name, "size": size, "first_row": first, "rows": count}
                yield Shard(shard_id(name, position), payload, count)
            images += rows
            if images == self.limit:
                break
        with label_errors(self.files.folder):
            return found.survey(images, self.label_column, self.use_labels)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        name, first, rows = shard.payload["file"], shard.payload["first_row"], shard.payload["rows"]
        table, columns, place = self._open(name)
        with SteadyFile(below(self.files.folder, name), shard.payload["size"]) as file:
            for start in range(0, rows, READ_ROWS):
                span = range(start, min(start + READ_ROWS, rows))
                selected = {ordinal for ordinal in span if wanted(ordinal)}
                if selected:
                    part, read = table.slice(first + start, len(span)), partial(_read, file, place)
                    images = columns.rows(part, f"{printable(name)}#", first + start, self.space, read)
                    yield from (pair for pair in zip(span, images, strict=True) if pair[0] in selected)

    def _words(self, table: pa.Table, columns: Columns) -> list[str]:
        """Labels of a file, all that differ."""
        if columns.label is None:
            return []
        if self.label_column is None and not self.space.reading:
            columns.check_beside(table.select([columns.label, *columns.texts(table.schema)])[:READ_ROWS], self.space)
        stored = pc.unique(table.column(columns.label)).to_pylist()
        return sorted({word for value in stored if (word := columns.word(value)) is not None})

    def _open(self, name: str) -> tuple[pa.Table, Columns, int]:
        """A mapped file, its columns, and where in memory it begins. Raises UserError naming it where it cannot be read."""
        where = below(self.files.folder, name)
        filesystem, path = open_storage(where)
        if not isinstance(filesystem, LocalFileSystem):
            raise UserError(f"{shown(where)}: Arrow files are mapped into memory, so they must lie on a disk; copy them there")
        try:
            table, place = read_twice(where, lambda: patiently(partial(_mapped, path), where, "read"))
        except Damaged as damage:
            raise UserError(f"{shown(where)}: not a readable Arrow file of the datasets library ({damage})") from None
        with label_errors(where):
            return table, Columns.of(table.schema, self.space, self.use_labels, self.label_column), place


@lru_cache(maxsize=64)
def _mapped(path: str) -> tuple[pa.Table, int]:
    data = pa.memory_map(path).read_buffer()
    with decoding():
        return pa.ipc.open_stream(data).read_all(), data.address


def _read(file: SteadyFile, place: int, image: pa.Buffer) -> bytes | memoryview:
    """The bytes that a mapped buffer shows, read. Of a compressed file, which nothing here writes, they are not in the map."""
    start = image.address - place
    return file.read_at(image.size, start) if 0 <= start < file.size else memoryview(image).cast("B")
