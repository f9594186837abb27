"""Files of rows, Parquet or Arrow: surveyed one after the other, and what they hold together."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from jobs.pipeline.labels import LabelError, LabelSpace, Readings
from jobs.pipeline.sources.in_order import in_order
from jobs.pipeline.sources.listing import FileSet, LeftOut
from jobs.pipeline.sources.parquet_columns import ColumnError, Columns, label_errors
from jobs.pipeline.sources.source import Shard, Survey
from jobs.storage.address import below

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
        images, left_out = 0, LeftOut()
        found = Rows(self.space, left_out)
        for (name, size), groups, words, columns in in_order(self._survey_file, self.files.files(left_out), survey=True):
            with label_errors(below(self.folder, name)):
                found.add(name, sum(groups), words, columns)
            rows = sum(groups) if self.limit is None else min(sum(groups), self.limit - images)
            yield from self._cut(name, size, groups, rows)
            images += rows
            if images == self.limit:
                break
        with label_errors(self.folder):
            return found.survey(images, self.label_column, self.use_labels)

    @abstractmethod
    def _survey_file(self, listed: tuple[str, int]) -> Surveyed: ...

    @abstractmethod
    def _cut(self, name: str, size: int, groups: list[int], rows: int) -> Iterator[Shard]:
        """The shards of a file. groups: rows of each row group. rows: how many of them all to take."""


class Rows:
    """What the files of rows that were surveyed so far hold together."""

    def __init__(self, space: LabelSpace, left_out: LeftOut) -> None:
        self._space, self._left_out, self._readings = space, left_out, Readings(space)
        self._first: tuple[str, Columns] | None = None
        self._labelled = False

    def add(self, name: str, rows: int, words: Iterable[str], columns: Columns) -> None:
        """One more file. Raises LabelError where its labels are no classes, or are not where the first file has them.

        words: as Columns.words gives them.
        """
        for column in columns.others:
            self._left_out.add("columns of other images", f"{name}#{column}")
        if not rows:
            self._left_out.add("files without rows", name)
            return
        self._first = other, first = self._first or (name, columns)
        if columns.place() != first.place():
            here, there = ("no label column" if (at := one.place()) == "nowhere" else f"labels {at}" for one in (columns, first))
            raise LabelError(f"it has {here}, and {other} has {there}; give files that are alike")
        if columns.indices != first.indices:
            raise LabelError(f"the class names of column {columns.label!r} are others than in {other}; give files that are alike")
        for word in words:
            self._labelled = True
            if columns.indices is None:
                self._readings.index(word)

    def survey(self, images: int, label_column: str | None, use_labels: bool) -> Survey:
        """Of all of them. Raises ColumnError where they have no rows."""
        if self._first is None:
            raise ColumnError("its files have no rows")
        columns, told = self._first[1], self._left_out.told()
        if not use_labels:
            return Survey(images, False, left_out=told)
        labels_by = f"{label_column} {self._space.reading}"
        if not self._labelled and columns.place() != "nowhere":
            return Survey(images, False, f"none: all are empty or -1 {columns.place()}", told, labels_by=labels_by)
        held = self._space.fewer(columns.indices or ()) if self._labelled else None
        return Survey(images, self._labelled, columns.labels_from(self._readings), told, held, labels_by)
