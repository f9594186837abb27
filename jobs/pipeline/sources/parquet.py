"""Parquet shards: the Hugging Face image layout or plain bytes columns, read by whole row groups."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

import pyarrow.parquet as pq

from jobs.pipeline.labels import LabelError
from jobs.pipeline.sources.columns import Columns, label_errors
from jobs.pipeline.sources.row_files import READ_ROWS, RowFiles, Surveyed
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
SMALL_FOOTER = (
    256 * 2**10
)  # Bytes of footers that are read as they are: the worst takes 70 MB. One of ImageNet's shards has 10 KB.
FOOTER_MEMORY = 2**30
"""Bytes that reading a footer may take: pyarrow makes a kilobyte of three of them. 10,000 row groups of three columns, 3 MB as
pyarrow writes them, take 36 MB."""
FOOTER_SECONDS = 60
READ_FOOTER = f"""
import io, resource, sys
import pyarrow.parquet as pq
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + {FOOTER_MEMORY}
resource.setrlimit(resource.RLIMIT_AS, (most, most))
pq.read_metadata(io.BytesIO(sys.stdin.buffer.read()))
"""


class ParquetShards(RowFiles):
    """Shards are runs of whole row groups."""

    def _parts(self, shard: Shard) -> Iterator[tuple[range, Iterator[EncodedImage]]]:
        name, row = shard.payload["file"], shard.payload["first_row"]
        first, sizes = shard.payload["first_group"], shard.payload["rows"]
        take, ordinal = shard.payload.get("take", sum(sizes)), 0
        with self._opened(name, shard.payload["size"]) as (file, columns):
            if _groups(file)[first : first + len(sizes)] != sizes:
                raise Gone(f"{shown(below(self.folder, name))}: changed while the run read it; restore it first")
            for group, rows in enumerate(sizes, first):
                yield range(ordinal, min(ordinal + rows, take)), self._read_group(file, columns, group, name, row)
                ordinal, row = ordinal + rows, row + rows

    def _survey_file(self, listed: tuple[str, int]) -> Surveyed:
        where = below(self.folder, listed[0])
        try:
            return read_twice(where, partial(self._survey_groups, listed, where))
        except Damaged as damage:
            raise UserError(f"{shown(where)}: not a readable Parquet file ({damage})") from None

    def _survey_groups(self, listed: tuple[str, int], where: str) -> Surveyed:
        name, size = listed
        if size > SMALL_FOOTER:  # in the survey alone: what it has refused, no host reads
            with SteadyFile(where, size) as steady:
                _check_footer(steady)
        with self._opened(name, size) as (file, columns), label_errors(where), decoding():
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                for held in (column.total_uncompressed_size for column in _of(file, columns.label, group)):
                    if held > MAX_LABEL_BYTES + 1024 * rows:
                        raise LabelError(f"{held:,} bytes of labels in {rows:,} rows; these are no labels")
            words = columns.words(columns.stored(file, self.space))
            if columns.label and self.label_column is None and not self.space.reading and file.num_row_groups:
                texts = [
                    name
                    for name in columns.texts(file.schema_arrow)  # what is too large for names of classes is none
                    if all(column.total_uncompressed_size < MAX_LABEL_BYTES for column in _of(file, name, 0))
                ]
                for batch in islice(file.iter_batches(READ_ROWS, [0], [columns.label, *texts], use_threads=False), bool(texts)):
                    columns.check_beside(batch, self.space)
            return listed, _groups(file), words, columns

    def _cut(self, name: str, size: int, groups: list[int], rows: int) -> Iterator[Shard]:
        """Runs of row groups of at most images_per_shard rows together, or one row group that has more by itself."""
        first = row = position = 0
        while first < len(groups) and row < rows:
            last, total = first + 1, groups[first]
            while last < len(groups) and total + groups[last] <= self.images_per_shard:
                last, total = last + 1, total + groups[last]
            if total:
                payload = {"file": name, "size": size, "first_group": first, "first_row": row, "rows": groups[first:last]}
                take = min(total, rows - row)
                yield Shard(shard_id(name, position), payload if take == total else payload | {"take": take}, take)
                position += 1
            first, row = last, row + total

    def _read_group(self, file: pq.ParquetFile, columns: Columns, group: int, name: str, row: int) -> Iterator[EncodedImage]:
        """Every row of a row group; `row` is the number of its first. What cannot be read is an error in each row left."""
        prefix, needed = f"{printable(name)}#", [name for name in (columns.leaf, columns.label) if name]
        end = row + file.metadata.row_group(group).num_rows
        try:
            _check_size(file, columns, group)
            for batch in decoded(file.iter_batches(READ_ROWS, [group], needed, use_threads=False)):
                yield from columns.rows(batch, prefix, row, self.space)
                row += len(batch)
        except Damaged as damage:
            for lost in range(row, end):
                yield EncodedImage(f"{prefix}{lost}", None, b"", f"row group {group} cannot be read: {damage}")

    @contextmanager
    def _opened(self, name: str, size: int) -> Iterator[tuple[pq.ParquetFile, Columns]]:
        """A file and its columns. Raises Damaged if it is not Parquet, UserError naming it if it lacks what is needed."""
        with SteadyFile(below(self.folder, name), size) as steady:
            with label_errors(below(self.folder, name)), decoding():
                file = pq.ParquetFile(steady, buffer_size=READ_BYTES)
                columns = Columns.of(file.schema_arrow, name, self.space, self.use_labels, self.label_column)
            yield file, columns


def _groups(file: pq.ParquetFile) -> list[int]:
    return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


def _check_footer(file: SteadyFile) -> None:
    """Read a large footer in a process that may take so much memory and time, and no more; raise Damaged if that fails.

    What is no Parquet file passes: reading it says what it is.
    """
    length = int.from_bytes(file.read_at(4, max(file.size - 8, 0)), "little")
    if not SMALL_FOOTER < length <= file.size - 8:
        return
    footer = b"PAR1" + file.read_at(length + 8, file.size - 8 - length)
    told = f"its footer of {length:,} bytes cannot be read in {FOOTER_MEMORY >> 30} GiB of memory and {FOOTER_SECONDS} s"
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", READ_FOOTER], input=footer, capture_output=True, timeout=FOOTER_SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        raise Damaged(told) from None
    except subprocess.CalledProcessError as ended:
        raise Damaged(
            f"{told} ({(ended.stderr.decode(errors='replace').strip().splitlines() or ['it was killed'])[-1]})"
        ) from None


def _check_size(file: pq.ParquetFile, columns: Columns, group: int) -> None:
    """Raise Damaged for a row group that would take far more memory than it holds: by its footer, before anything is read."""
    for column in _of(file, columns.leaf, group):
        size, stored = column.total_uncompressed_size, max(column.total_compressed_size, 1)
        if size > MAX_BLOWN_UP_BYTES and size > 100 * stored:
            raise Damaged(f"{stored:,} bytes that claim to be {size:,}")
        if column.has_dictionary_page:
            dictionary = min((column.data_page_offset - column.dictionary_page_offset) * size // stored, size)
            if dictionary > MAX_DICTIONARY_BYTES:
                raise Damaged(f"a dictionary of about {dictionary:,} bytes; write the file without dictionaries")


def _of(file: pq.ParquetFile, path: str | None, group: int) -> Iterator[pq.ColumnChunkMetaData]:
    found = file.metadata.row_group(group)
    return (found.column(i) for i in range(found.num_columns) if found.column(i).path_in_schema == path)
