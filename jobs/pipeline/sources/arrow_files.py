"""Data sets as the `datasets` library keeps them on disk: its cache of what was loaded, or a folder of save_to_disk.

Its files are Arrow streams. They are mapped into memory for what says where the rows are; images are read, since a mapped read
that fails ends the process.
"""

from collections.abc import Iterator
from functools import lru_cache, partial

import pyarrow as pa
from pyarrow.fs import LocalFileSystem

from jobs.pipeline.sources.columns import Columns, label_errors
from jobs.pipeline.sources.row_files import READ_ROWS, RowFiles, Surveyed
from jobs.pipeline.sources.source import EncodedImage, Shard, printable, shard_id
from jobs.storage.address import below, shown
from jobs.storage.failure import Damaged, decoding, patiently
from jobs.storage.files import SteadyFile, open_storage, read_twice
from vit_actor.errors import UserError


class ArrowFiles(RowFiles):
    """Shards are runs of rows."""

    def _parts(self, shard: Shard) -> Iterator[tuple[range, Iterator[EncodedImage]]]:
        name, first, rows = shard.payload["file"], shard.payload["first_row"], shard.payload["rows"]
        table, columns, place = self._open(name)
        with SteadyFile(below(self.folder, name), shard.payload["size"]) as file:
            for start in range(0, rows, READ_ROWS):
                part, read = table.slice(first + start, min(READ_ROWS, rows - start)), partial(_read, file, place)
                images = columns.rows(part, f"{printable(name)}#", first + start, self.space, read)
                yield range(start, start + len(part)), images

    def _survey_file(self, listed: tuple[str, int]) -> Surveyed:
        table, columns, _ = self._open(listed[0])
        with label_errors(below(self.folder, listed[0])):
            if columns.label is None:
                return listed, [len(table)], [], columns
            if self.label_column is None and not self.space.reading:
                columns.check_beside(table.select([columns.label, *columns.texts(table.schema)])[:READ_ROWS], self.space)
            return listed, [len(table)], columns.words(set(table[columns.label].unique().to_pylist())), columns

    def _cut(self, name: str, size: int, groups: list[int], rows: int) -> Iterator[Shard]:
        for position, first in enumerate(range(0, rows, self.images_per_shard)):
            count = min(self.images_per_shard, rows - first)
            yield Shard(shard_id(name, position), {"file": name, "size": size, "first_row": first, "rows": count}, count)

    def _open(self, name: str) -> tuple[pa.Table, Columns, int]:
        """A mapped file, its columns, and where in memory it begins. Raises UserError naming it where it cannot be read."""
        where = below(self.folder, name)
        filesystem, path = open_storage(where)
        if not isinstance(filesystem, LocalFileSystem):
            raise UserError(f"{shown(where)}: Arrow files are mapped into memory, so they must lie on a disk; copy them there")
        try:
            table, place = read_twice(where, lambda: patiently(partial(_mapped, path), where, "read"))
        except Damaged as damage:
            raise UserError(f"{shown(where)}: not a readable Arrow file of the datasets library ({damage})") from None
        with label_errors(where):
            return table, Columns.of(table.schema, "", self.space, self.use_labels, self.label_column), place


@lru_cache(maxsize=64)
def _mapped(path: str) -> tuple[pa.Table, int]:
    data = pa.memory_map(path).read_buffer()
    with decoding():
        return pa.ipc.open_stream(data).read_all(), data.address


def _read(file: SteadyFile, place: int, image: pa.Buffer) -> bytes | memoryview:
    """The bytes that a mapped buffer shows, read. Of a compressed file, which nothing here writes, they are not in the map."""
    start = image.address - place
    return file.read_at(image.size, start) if 0 <= start < file.size else memoryview(image).cast("B")
