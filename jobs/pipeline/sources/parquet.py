"""Parquet shards: the Hugging Face image layout or plain bytes columns, read by whole row groups."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

import pyarrow.parquet as pq

from jobs.pipeline.labels import LabelError
from jobs.pipeline.sources.parquet_columns import Columns, label_errors, partition_label
from jobs.pipeline.sources.parquet_footer import SMALL_BYTES, check_footer
from jobs.pipeline.sources.row_files import RowFiles, Surveyed
from jobs.pipeline.sources.source import EncodedImage, Shard, printable, shard_id
from jobs.storage.address import below, shown
from jobs.storage.failure import Damaged, Gone, decoded, decoding
from jobs.storage.files import SteadyFile, read_twice
from vit_actor.errors import UserError

READ_BYTES = 8 * 2**20
"""Bytes a read asks of storage: large enough for a distant store. A page must fit in memory (by pyarrow's writers at most
1,024 rows), a row group need not."""
MAX_DICTIONARY_BYTES = 16 * 2**20
"""Of a column's distinct values, each of which may be in every row that is read at once; writers stop at 1 MiB."""
MAX_BLOWN_UP_BYTES = 256 * 2**20  # Of a column in a row group that is mostly made up by its compression
MAX_LABEL_BYTES = 64 * 2**20  # Of the labels in a row group, and 1 KiB a row
READ_ROWS = 64  # Rows decoded at a time: about 7 MB of ImageNet


class ParquetShards(RowFiles):
    """Shards are runs of whole row groups."""

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        name, row = shard.payload["file"], shard.payload["first_row"]
        first, sizes = shard.payload["first_group"], shard.payload["rows"]
        take = shard.payload.get("take", sum(sizes))
        ordinal = 0
        with self._opened(name, shard.payload["size"]) as (file, columns):
            if _groups(file)[first : first + len(sizes)] != sizes:
                raise Gone(f"{shown(below(self.folder, name))}: changed while the run read it; restore it first")
            for group, rows in enumerate(sizes, first):
                span = range(ordinal, min(ordinal + rows, take))
                selected = {i for i in span if wanted(i)}
                if selected:
                    images = self._read_group(file, columns, group, name, row)
                    yield from (pair for pair in zip(span, images, strict=False) if pair[0] in selected)
                ordinal, row = ordinal + rows, row + rows

    def _survey_file(self, listed: tuple[str, int]) -> Surveyed:
        where = below(self.folder, listed[0])
        try:
            return read_twice(where, partial(self._survey_groups, listed, where))
        except Damaged as damage:
            raise UserError(f"{shown(where)}: not a readable Parquet file ({damage})") from None

    def _survey_groups(self, listed: tuple[str, int], where: str) -> Surveyed:
        name, size = listed
        if size > SMALL_BYTES:  # in the survey alone: what it has refused, no host reads
            with SteadyFile(where, size) as steady:
                check_footer(steady)
        with self._opened(name, size) as (file, columns), label_errors(where), decoding():
            for group in range(file.num_row_groups):
                _check_label_size(file, columns, group)
            words = columns.words(file, self.space)
            if columns.label and self.label_column is None and not self.space.reading and file.num_row_groups:
                self._check_beside(file, columns)
            return listed, _groups(file), words, columns

    def _check_beside(self, file: pq.ParquetFile, columns: Columns) -> None:
        """As Columns.check_beside, by the first rows; text that is too large for names of classes is none."""
        texts = [
            name
            for name in columns.texts(file.schema_arrow)
            if all(column.total_uncompressed_size < MAX_LABEL_BYTES for column in _of(file, name, 0))
        ]
        for rows in islice(file.iter_batches(READ_ROWS, [0], [columns.label, *texts], use_threads=False), bool(texts)):
            columns.check_beside(rows, self.space)

    def _cut(self, name: str, size: int, groups: list[int], rows: int) -> Iterator[Shard]:
        """Runs of row groups of at most images_per_shard rows together, or one row group that has more by itself."""
        first = row = position = 0
        while first < len(groups) and row < rows:
            last, total = first, 0
            while last < len(groups) and (last == first or total + groups[last] <= self.images_per_shard):
                last, total = last + 1, total + groups[last]
            if total:
                payload = {"file": name, "size": size, "first_group": first, "first_row": row, "rows": groups[first:last]}
                take = min(total, rows - row)
                yield Shard(shard_id(name, position), payload if take == total else payload | {"take": take}, take)
                position += 1
            first, row = last, row + total

    def _read_group(self, file: pq.ParquetFile, columns: Columns, group: int, name: str, row: int) -> Iterator[EncodedImage]:
        """Every row of a row group; `row` is the number of its first. What cannot be read is an error in each row left."""
        prefix = f"{printable(name)}#"
        end = row + file.metadata.row_group(group).num_rows
        selection = [columns.leaf] if columns.label is None else [columns.leaf, columns.label]
        try:
            _check_size(file, columns, group)
            for batch in decoded(file.iter_batches(READ_ROWS, [group], selection, use_threads=False)):
                yield from columns.rows(batch, prefix, row, self.space)
                row += len(batch)
        except (Damaged, LabelError) as damage:
            for lost in range(row, end):
                yield EncodedImage(f"{prefix}{lost}", None, b"", f"row group {group} cannot be read: {damage}")

    @contextmanager
    def _opened(self, name: str, size: int) -> Iterator[tuple[pq.ParquetFile, Columns]]:
        """A file and its columns. Raises Damaged if it is not Parquet, UserError naming it if it lacks what is needed."""
        with SteadyFile(below(self.folder, name), size) as steady:
            with label_errors(below(self.folder, name)), decoding():
                file = pq.ParquetFile(steady, buffer_size=READ_BYTES)
                partition = partition_label(name, self.label_column) if self.use_labels else None
                columns = Columns.of(file.schema_arrow, self.space, self.use_labels, self.label_column, partition)
            yield file, columns


def _groups(file: pq.ParquetFile) -> list[int]:
    return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


def _check_size(file: pq.ParquetFile, columns: Columns, group: int) -> None:
    """Raise Damaged for a row group that would take far more memory than it holds: by its footer, before anything is read."""
    _check_label_size(file, columns, group)
    for column in _of(file, columns.leaf, group):
        size, stored = column.total_uncompressed_size, max(column.total_compressed_size, 1)
        if size > MAX_BLOWN_UP_BYTES and size > 100 * stored:
            raise Damaged(f"{stored:,} bytes that claim to be {size:,}")
        if column.has_dictionary_page:
            dictionary = min((column.data_page_offset - column.dictionary_page_offset) * size // stored, size)
            if dictionary > MAX_DICTIONARY_BYTES:
                raise Damaged(f"a dictionary of about {dictionary:,} bytes; write the file without dictionaries")


def _check_label_size(file: pq.ParquetFile, columns: Columns, group: int) -> None:
    rows = file.metadata.row_group(group).num_rows
    for column in _of(file, columns.label, group) if columns.label else ():
        if column.total_uncompressed_size > MAX_LABEL_BYTES + 1024 * rows:
            raise LabelError(f"{column.total_uncompressed_size:,} bytes of labels in {rows:,} rows; these are no labels")


def _of(file: pq.ParquetFile, path: str, group: int) -> Iterator[pq.ColumnChunkMetaData]:
    found = file.metadata.row_group(group)
    return (found.column(i) for i in range(found.num_columns) if found.column(i).path_in_schema == path)
