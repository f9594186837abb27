"""Data sets as the `datasets` library keeps them on disk: its cache of what was loaded, or a folder of save_to_disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import LocalFileSystem

from jobs.pipeline.labels import LabelSpace
from jobs.pipeline.sources.listing import FileSet, check_unchanged, join, open_place, place_errors
from jobs.pipeline.sources.parquet_columns import Columns
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable, shard_id, view
from jobs.storage import shown
from vit_actor.errors import UserError

READ_ROWS = 64
"""Rows taken from the mapped file at a time."""


@dataclass(frozen=True)
class ArrowFiles:
    """Rows of Arrow files, in the order of the files' names. An image's id is `file.arrow#row`.

    The files are mapped into memory by `datasets`, and nothing is decoded by it. label_column: as for Parquet.
    """

    files: FileSet
    space: LabelSpace
    use_labels: bool
    label_column: str | None
    limit: int | None
    images_per_shard: int

    def shards(self) -> Generator[Shard, None, Survey]:
        images, labelled, left_out = 0, False, Counter[str]()
        told, held = "", None
        for name, size in self.files.files(left_out):
            table, columns = self._open(name)
            labelled = self._check_labels(name, table, columns) or labelled
            told, held = columns.labels_from, self.space.fewer(columns.indices or ())
            rows = table.num_rows if self.limit is None else min(table.num_rows, self.limit - images)
            for position, first in enumerate(range(0, rows, self.images_per_shard)):
                count = min(self.images_per_shard, rows - first)
                payload = {"file": name, "size": size, "first_row": first, "rows": count}
                yield Shard(shard_id(name, position), payload, count)
            images += rows
            if images == self.limit:
                break
        if not images:
            raise UserError(f"{shown(self.files.folder)}: its Arrow files have no rows")
        told, labels_by = (told, str(self.label_column)) if self.use_labels else ("", "")
        return Survey(images, labelled, told, dict(left_out), held if labelled else None, labels_by)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        name, first, rows = shard.payload["file"], shard.payload["first_row"], shard.payload["rows"]
        check_unchanged(join(self.files.folder, name), shard.payload["size"])
        table, columns = self._open(name)
        for start in range(0, rows, READ_ROWS):
            span = range(start, min(start + READ_ROWS, rows))
            selected = {ordinal for ordinal in span if wanted(ordinal)}
            if selected:
                part = table.slice(first + start, len(span))
                images = self._rows(part, columns, f"{printable(name)}#", first + start)
                yield from (pair for pair in zip(span, images, strict=True) if pair[0] in selected)

    def _rows(self, part: pa.Table, columns: Columns, prefix: str, row: int) -> Iterator[EncodedImage]:
        images = part.column(columns.image).combine_chunks()
        if pa.types.is_struct(images.type):
            images = pc.struct_field(images, "bytes")
        labels = part.column(columns.label).to_pylist() if columns.label else [None] * len(part)
        for place, (image, stored) in enumerate(zip(images, labels, strict=True), row):
            label, error = None, None
            try:
                label = columns.index(stored, self.space)
            except UserError as problem:
                error = str(problem)
            if error is None and not image.is_valid:
                error = "no image bytes in this row, at most a path"
            yield EncodedImage(f"{prefix}{place}", label, b"" if error else view(image.as_buffer()), error)

    def _check_labels(self, name: str, table: pa.Table, columns: Columns) -> bool:
        """Whether any row has a label. Raises UserError naming the file for one that is no class."""
        if columns.label is None:
            return False
        try:
            found = [columns.index(value, self.space) for value in pc.unique(table.column(columns.label)).to_pylist()]
        except UserError as error:
            raise UserError(f"{shown(join(self.files.folder, name))}: {error}; or pass --labels none to predict only") from None
        return any(index is not None for index in found)

    def _open(self, name: str) -> tuple[pa.Table, Columns]:
        """A mapped file and its columns. Raises UserError naming it where it cannot be read."""
        filesystem, base = open_place(self.files.folder)
        where = shown(join(self.files.folder, name))
        if not isinstance(filesystem, LocalFileSystem):
            raise UserError(f"{where}: Arrow files are mapped into memory, so they must lie on a disk; copy them there")
        with place_errors(where):
            table = _mapped(join(base, name))
        if table is None:
            raise UserError(f"{where}: not a readable Arrow file of the datasets library")
        try:
            return table, Columns.of(table.schema, self.space, self.use_labels, self.label_column)
        except UserError as error:
            raise UserError(f"{where}: {error}; or pass --labels none to predict only") from None


@lru_cache(maxsize=64)
def _mapped(path: str) -> Any:
    from datasets import Dataset  # here, because it is heavy and few data sets are kept so

    try:
        return Dataset.from_file(path).data.table
    except (pa.ArrowException, KeyError, ValueError, TypeError):
        return None
