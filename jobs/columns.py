"""Schemas whose columns say what they hold."""

from __future__ import annotations

import pyarrow as pa


def described(columns: dict[str, tuple[pa.DataType, str]]) -> pa.Schema:
    """A schema from name -> (type, meaning); the meaning becomes the field's metadata `description`."""
    return pa.schema([pa.field(name, kind, metadata={"description": meaning}) for name, (kind, meaning) in columns.items()])
