"""Which columns of a Parquet file hold images and labels, and whether the labels fit the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.pipeline.labels import LabelError, LabelSpace

IMAGE_NAMES = ("image", "img", "jpeg", "jpg", "png", "webp", "bytes", "image_bytes", "content")
LABEL_NAMES = ("label", "labels", "cls", "class")

BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)

NONE = ("", str(-1))
"""Texts that are no label."""

UNKNOWN = -1
"""How Hugging Face writes "no label", in a ClassLabel column of a test split."""


@dataclass(frozen=True)
class Columns:
    """image: the column. leaf: the path of its bytes, such as `image.bytes`. label: the column, None without labels.

    indices: class index by stored integer, where the data set has class names of its own.
    """

    image: str
    leaf: str
    label: str | None
    indices: tuple[int, ...] | None

    @classmethod
    def of(
        cls, schema: pa.Schema, space: LabelSpace, use_labels: bool, label_column: str | None, partition: str | None = None
    ) -> Columns:
        """From a file's schema. label_column: as the user named it, None to look for one. partition: a label in the file's path.

        Raises LabelError for no image column or several, a label column that is not there or has no usable type, and
        class names that do not fit the checkpoint.
        """
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        image, leaf = _image_column(schema)
        label = label_column or next((name for name in LABEL_NAMES if name in schema.names), None)
        if partition is not None and label not in schema.names:
            label = None
        for name in (image, label):
            if name in twice:
                raise LabelError(f"two columns are named {name!r}; rename one")
        if not use_labels or label is None:
            return cls(image, leaf, None, None)
        if label not in schema.names:
            raise LabelError(f"no label column {label!r}; columns are {', '.join(schema.names)}")
        kind = _label_type(schema, label)
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or _is_text(kind)):
            raise LabelError(f"label column {label!r} is {kind}; it must be whole numbers or text")
        names = _class_names(schema, label) if label_column is None and pa.types.is_integer(kind) else None
        return cls(image, leaf, label, space.translate(names) if names else None)

    @property
    def labels_from(self) -> str:
        """Where labels come from, for people."""
        return f"column {self.label!r}" if self.label else f"none found (looked for columns {', '.join(LABEL_NAMES)})"

    def labelled(self, file: pq.ParquetFile, space: LabelSpace) -> bool:
        """Whether any row has a label; reads only statistics where they suffice, else only the label column.

        Raises LabelError for a label outside the classes.
        """
        if self.label is None:
            return False
        if _is_text(_label_type(file.schema_arrow, self.label)):
            known: set[str] = set()
            for labels in self._stream(file, range(file.num_row_groups)):
                known.update(text for text in set(labels.to_pylist()) if text is not None and text not in (*known, *NONE))
                for text in known:
                    space.index(text)
            return bool(known)
        classes = len(space.class_names) if self.indices is None else len(self.indices)
        labelled = False
        for low, high in self._ranges(file):
            if low != low:  # not a number
                continue
            if part := next((value for value in (low, high) if value != int(value)), None):
                raise LabelError(f"label {part:g} is no whole number")
            if low < UNKNOWN or high >= classes:
                raise LabelError(f"label {low if low < UNKNOWN else high:g} is outside the classes 0-{classes - 1}")
            labelled |= high > UNKNOWN
        return labelled

    def index(self, stored: float | str | None, space: LabelSpace) -> int | None:
        """The class index of one stored label. Raises LabelError if it is outside the classes."""
        if stored is None or stored in (UNKNOWN, *NONE) or stored != stored:  # a NaN is how pandas writes that there is none
            return None
        if isinstance(stored, float):  # how pandas writes whole numbers among which some are missing
            if not stored.is_integer():
                raise LabelError(f"label {stored:g} is no whole number")
            stored = int(stored)
        if isinstance(stored, str):
            return space.index(stored)
        classes = range(len(space.class_names)) if self.indices is None else self.indices
        if not 0 <= stored < len(classes):
            raise LabelError(f"label {stored} is outside the classes 0-{len(classes) - 1}")
        return classes[stored]

    def _ranges(self, file: pq.ParquetFile) -> Iterator[tuple[int, int]]:
        """(lowest, highest) label of each row group that has any."""
        position = {file.metadata.schema.column(i).path: i for i in range(file.metadata.num_columns)}[self.label]
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(position).statistics
            if statistics is not None and statistics.has_min_max:
                yield statistics.min, statistics.max
                continue
            for labels in self._stream(file, [group]):
                span = pc.min_max(labels).as_py()
                if span["min"] is not None:
                    yield span["min"], span["max"]

    def _stream(self, file: pq.ParquetFile, groups: range | list[int]) -> Iterator[pa.Array]:
        for batch in file.iter_batches(row_groups=list(groups), columns=[self.label], use_threads=False):
            column = batch.column(0)
            yield column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def partition_label(path: str, label_column: str | None) -> str | None:
    """The label in a file's path, as Hive keeps a column that all rows of a file have alike: label=7/part-0.parquet."""
    for part in path.split("/")[:-1]:
        name, equals, value = part.partition("=")
        if equals and name in ((label_column,) if label_column else LABEL_NAMES) and value != "__HIVE_DEFAULT_PARTITION__":
            return unquote(value)
    return None


def _image_column(schema: pa.Schema) -> tuple[str, str]:
    candidates = {}
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            if _is_binary(field.type.field("bytes").type):
                candidates[field.name] = f"{field.name}.bytes"
        elif _is_binary(field.type):
            candidates[field.name] = field.name
    named = [name for name in IMAGE_NAMES if name in candidates] or list(candidates)
    if not named:
        raise LabelError(f"no image column (bytes, or a struct with bytes); columns are {', '.join(schema.names)}")
    if named[0] not in IMAGE_NAMES and len(named) > 1:
        raise LabelError(f"columns {', '.join(named)} could all be the image; rename one to 'image'")
    return named[0], candidates[named[0]]


def _class_names(schema: pa.Schema, label: str) -> list[str] | None:
    """Names of a ClassLabel column, from what the `datasets` library keeps in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _label_type(schema: pa.Schema, label: str) -> pa.DataType:
    kind = schema.field(label).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_binary(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in BINARY)


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in TEXT)
