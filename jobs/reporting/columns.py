"""Schemas whose columns say what they hold."""

from typing import Any, get_args, get_type_hints

import pyarrow as pa

ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), list[str]: pa.list_(pa.string())}


def described(*columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    """A schema from (name, type, meaning); the meaning becomes the field's metadata `description`."""
    return pa.schema([pa.field(name, kind, metadata={"description": meaning}) for name, kind, meaning in columns])


def schema_of(row: type[Any]) -> pa.Schema:
    """The schema of a dataclass that is a row: each field Annotated[type, meaning], of a type in ARROW or that | None."""
    columns = []
    for name, hint in get_type_hints(row, include_extras=True).items():
        kind, meaning = get_args(hint)
        columns.append((name, ARROW[kind if kind in ARROW else get_args(kind)[0]], meaning))
    return described(*columns)
