"""Which columns of a file of rows hold images and labels, and what their values are."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.pipeline.labels import BY_NAME, BY_ORDER, Beside, LabelError, LabelSpace, Readings, predict_only
from jobs.pipeline.sources.source import EncodedImage, view
from jobs.storage.address import shown
from vit_actor.errors import UserError

IMAGE_NAMES = ("image", "img", "jpeg", "jpg", "png", "webp", "bytes", "image_bytes", "content")
LABEL_NAMES = ("label", "labels", "cls", "class")
UNKNOWN = -1  # How Hugging Face writes "no label", in a ClassLabel column of a test split
NONE = ("", UNKNOWN, str(UNKNOWN))  # Values that are no label
type Rows = pa.RecordBatch | pa.Table


class ColumnError(UserError):
    """Columns in which there is no one image."""


@dataclass(frozen=True)
class Columns:
    """image: the column. leaf: the path of its bytes, such as `image.bytes`. label: the column, None without labels.

    indices: class index by stored integer, where the data set has class names of its own.
    others: columns of images that are not classified.
    partition: the label of all rows, where the file's path has it; "" for none.
    """

    image: str
    leaf: str
    label: str | None
    indices: tuple[int, ...] | None
    others: tuple[str, ...] = ()
    partition: str | None = None

    @classmethod
    def of(cls, schema: pa.Schema, path: str, space: LabelSpace, use_labels: bool, label_column: str | None) -> Self:
        """From a file's schema, and its path below the data set's folder. label_column: as the user named it, None to look.

        Raises ColumnError for no image column or several, LabelError for a label column that is not there or has no usable
        type, several that may be it, and class names that do not fit the checkpoint.
        """
        image, leaf, others = _image_columns(schema)
        partition = _partition_label(path, (label_column,) if label_column else LABEL_NAMES) if use_labels else None
        labels = [label_column] if label_column else [name for name in LABEL_NAMES if name in schema.names]
        if partition is not None and not set(labels) & set(schema.names):
            return cls(image, leaf, None, None, others, partition)
        if not (use_labels and labels):
            return cls(image, leaf, None, None, others)
        if len(labels) > 1 or partition is not None:
            found = " and ".join(["the folders' names"] * (partition is not None) + [f"column {name!r}" for name in labels])
            raise LabelError(f"labels may be in {found}; pass --labels with the name of the column that has them")
        [label] = labels
        if schema.names.count(label) != 1:
            none = f"no label column {label!r}; columns are {', '.join(schema.names)}"
            raise LabelError(f"two columns are named {label!r}; rename one" if label in schema.names else none)
        kind = _value_type(schema.field(label).type)
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or _is_text(kind)):
            raise LabelError(f"label column {label!r} is {kind}; it must be whole numbers or text")
        names = _class_names(schema, label) if (label_column is None or space.reading) and pa.types.is_integer(kind) else None
        by_order = tuple(range(len(space.class_names))) if space.reading == BY_ORDER else None
        return cls(image, leaf, label, space.translate(names) if names else by_order, others)

    def place(self) -> str:
        """Where labels are, for people; "" for nowhere."""
        if self.partition is not None:
            return "in the folders' names"
        return f"in column {self.label!r}{' with class names' if self.indices else ''}" if self.label else ""

    def labels_from(self, readings: Readings) -> str:
        """Where labels come from and how sure that is, for people."""
        if self.label is None and self.partition is None:
            return f"none found (looked for columns {', '.join(LABEL_NAMES)})"
        where = "the folders' names" if self.label is None else f"column {self.label!r}"
        if self.indices is None:
            return readings.told(where)
        way = readings.space.reading
        return f"{where}, {f'read as --labels {way} says' if way else 'whose class names the checkpoint knows'}"

    def rows(
        self, batch: Rows, prefix: str, first: int, space: LabelSpace, read: Callable[[pa.Buffer], bytes | memoryview] = view
    ) -> Iterator[EncodedImage]:
        """The images of a batch of rows, by ids of a prefix and their row's number. read: gives the bytes of a buffer."""
        images = batch.column(self.image)
        images = images.combine_chunks() if isinstance(images, pa.ChunkedArray) else images
        if pa.types.is_struct(images.type):
            images = pc.struct_field(images, "bytes")
        if pa.types.is_dictionary(images.type):
            images = images.dictionary_decode()
        labels = batch.column(self.label).to_pylist() if self.label else [self.partition] * len(images)
        for row, (image, stored) in enumerate(zip(images, labels, strict=True), first):
            label, error = None, None if image.is_valid else "no image bytes in this row, at most a path"
            try:
                label = self.index(stored, space)
            except LabelError as problem:
                error = str(problem)
            yield EncodedImage(f"{prefix}{row}", label, b"" if error else read(image.as_buffer()), error)

    def check_beside(self, rows: Rows, space: LabelSpace) -> None:
        """Raise LabelError where a column of text among some rows says other classes than the label beside it."""
        beside = Beside(space)
        for row in rows.to_pylist():
            stored = row.pop(self.label)
            if (index := self.index(stored, space)) is not None:
                beside.add(str(stored), index, {column: str(word) for column, word in row.items()})
        own = f"{BY_NAME}:{self.label}" if self.indices else self.label  # a column alone says that its integers are the classes
        beside.check(lambda column: f"pass --labels {own} or --labels {column}")

    def texts(self, schema: pa.Schema) -> list[str]:
        """Columns of text beside the label."""
        texts = [field.name for field in schema if field.name != self.label and _is_text(_value_type(field.type))]
        return [name for name in texts if schema.names.count(name) == 1]

    def words(self, stored: set[Any]) -> list[str]:
        """Stored labels, or that of the partition, as texts. Raises LabelError as `word` does."""
        return [self.partition] if self.partition else sorted(filter(None, map(self.word, stored)))

    def word(self, stored: float | str | None) -> str | None:
        """A stored label as text; None for none. Raises LabelError for what is no whole number or class of the data set."""
        if stored is None or stored in NONE or stored != stored:  # a NaN is how pandas writes that there is none
            return None
        if isinstance(stored, float):  # how pandas writes whole numbers among which some are missing
            if not stored.is_integer():
                raise LabelError(f"label {stored:g} is no whole number")
            stored = int(stored)
        if isinstance(stored, int) and (stored < UNKNOWN or (self.indices is not None and stored >= len(self.indices))):
            classes = f" 0-{len(self.indices) - 1}" if self.indices is not None else ""
            raise LabelError(f"label {stored} is outside the classes{classes}")
        return str(stored)

    def index(self, stored: float | str | None, space: LabelSpace) -> int | None:
        """The class index of one stored label. Raises LabelError if it is outside the classes."""
        word = self.word(stored)
        if word is None:
            return None
        return space.index(word) if self.indices is None else self.indices[int(word)]

    def stored(self, file: pq.ParquetFile, space: LabelSpace) -> set[Any]:
        """Labels of a Parquet file, for a look at how they can be read: all that differ, or of numbers the lowest and highest.

        Reads only statistics where they suffice, else only the label column.
        """
        if self.label is None:
            return set()
        kind = file.schema_arrow.field(self.label).type
        exact = _is_text(kind) or pa.types.is_dictionary(kind) or any(map(str.isdecimal, space.class_names))
        position = {file.metadata.schema.column(i).path: i for i in range(file.metadata.num_columns)}[self.label]
        found = set[Any]()
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(position).statistics
            if not exact and statistics is not None and statistics.has_min_max:
                found |= {statistics.min, statistics.max}
                continue
            for batch in file.iter_batches(row_groups=[group], columns=[self.label], use_threads=False):
                found.update(batch.column(0).unique().to_pylist() if exact else pc.min_max(batch.column(0)).as_py().values())
        return found


@contextmanager
def label_errors(address: str) -> Iterator[None]:
    """Give what is wrong with the columns at an address as a mistake of the user's."""
    try:
        yield
    except LabelError as error:
        raise predict_only(shown(address), error) from None
    except ColumnError as error:
        raise UserError(f"{shown(address)}: {error}") from None


def _partition_label(path: str, names: tuple[str, ...]) -> str | None:
    """The label in a file's path, as Hive keeps a column that all rows of a file have alike: label=7/part-0.parquet."""
    for part in path.split("/")[:-1]:
        name, equals, value = part.partition("=")
        if equals and name in names:
            return "" if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
    return None


def _image_columns(schema: pa.Schema) -> tuple[str, str, tuple[str, ...]]:
    """The column of images, the path of its bytes, and other columns that have images."""
    candidates = {}
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            if _is_binary(field.type.field("bytes").type):
                candidates[field.name] = f"{field.name}.bytes"
        elif _is_binary(_value_type(field.type)):
            candidates[field.name] = field.name
    named = [name for name in IMAGE_NAMES if name in candidates] or list(candidates)
    if not named:
        raise ColumnError(f"no image column (bytes, or a struct with bytes); columns are {', '.join(schema.names)}")
    if named[0] not in IMAGE_NAMES and len(named) > 1:
        raise ColumnError(f"columns {', '.join(named)} could all be the image; rename one to 'image'")
    if schema.names.count(named[0]) > 1:
        raise ColumnError(f"two columns are named {named[0]!r}; rename one")
    return named[0], candidates[named[0]], tuple(name for name in candidates if name != named[0])


def _class_names(schema: pa.Schema, label: str) -> list[str] | None:
    """Names of a ClassLabel column, from what the `datasets` library keeps in the schema's metadata."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return any(
        is_kind(kind) for is_kind in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
