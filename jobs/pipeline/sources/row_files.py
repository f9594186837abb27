"""Files of rows, surveyed one after the other: Parquet and Arrow."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from jobs.pipeline.labels import LabelError, LabelSpace, Readings
from jobs.pipeline.sources.columns import Columns, label_errors
from jobs.pipeline.sources.in_order import in_order
from jobs.pipeline.sources.listing import FileSet, LeftOut
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey
from jobs.storage.address import below, shown
from vit_actor.errors import UserError

READ_ROWS = 64  # Rows decoded at a time: about 7 MB of ImageNet
type Surveyed = tuple[tuple[str, int], list[int], list[str], Columns]
"""A file's name and size, the rows of its row groups, words for its labels, and its columns."""


@dataclass(frozen=True)
class RowFiles(ABC):
    """Rows of files, in the order of the files' names. An image's id is `file#row`.

    label_column: as the user named it; None to find one, and to map its integers by the class names stored with it.
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
        images, left_out, readings, labelled, first = 0, LeftOut(), Readings(self.space), False, None
        for (name, size), groups, words, columns in in_order(self._survey_file, self.files.files(left_out), survey=True):
            for column in columns.others:
                left_out.add("columns of other images", f"{name}#{column}")
            if not sum(groups):
                left_out.add("files without rows", name)
                continue
            first = first or (name, columns)
            with label_errors(below(self.folder, name)):
                _check_alike(columns, *first)
                for word in words if columns.indices is None else ():
                    readings.index(word)
            labelled |= bool(words)
            rows = sum(groups) if self.limit is None else min(sum(groups), self.limit - images)
            yield from self._cut(name, size, groups, rows)
            images += rows
            if images == self.limit:
                break
        if first is None:
            raise UserError(f"{shown(self.folder)}: its files have no rows")
        columns, told = first[1], left_out.told()
        if not self.use_labels:
            return Survey(images, False, left_out=told)
        labels_by = f"{self.label_column} {self.space.reading}"
        if not labelled and columns.place():
            return Survey(images, False, f"none: all are empty or -1 {columns.place()}", told, labels_by=labels_by)
        held = self.space.fewer(columns.indices or ()) if labelled else None
        return Survey(images, labelled, columns.labels_from(readings), told, held, labels_by)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        for span, images in self._parts(shard):
            if selected := set(filter(wanted, span)):
                yield from (pair for pair in zip(span, images, strict=False) if pair[0] in selected)

    @abstractmethod
    def _survey_file(self, listed: tuple[str, int]) -> Surveyed: ...

    @abstractmethod
    def _cut(self, name: str, size: int, groups: list[int], rows: int) -> Iterator[Shard]:
        """The shards of a file. groups: rows of each row group. rows: how many of them all to take."""

    @abstractmethod
    def _parts(self, shard: Shard) -> Iterator[tuple[range, Iterator[EncodedImage]]]:
        """Ordinals of a shard that are read together, and their images, which are not read before they are asked for."""


def _check_alike(columns: Columns, first: str, its: Columns) -> None:
    """Raise LabelError where the labels of a file are not where the first file has them, or are not of the same classes."""
    if columns.place() != its.place():
        here, there = (f"labels {place}" if place else "no label column" for place in (columns.place(), its.place()))
        raise LabelError(f"it has {here}, and {first} has {there}; give files that are alike")
    if columns.indices != its.indices:
        raise LabelError(f"the class names of column {columns.label!r} are others than in {first}; give files that are alike")
