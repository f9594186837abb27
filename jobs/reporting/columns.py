"""Tables whose columns say what they hold."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb

INT, LONG, REAL, TEXT, TIME = pa.int32(), pa.int64(), pa.float64(), pa.string(), pa.timestamp("us", tz="UTC")
ARROW = {str: TEXT, int: LONG, float: REAL, bool: pa.bool_(), list[str]: pa.list_(TEXT)}


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


@dataclass(frozen=True)
class Query:
    """A table that a database gives. rows: SQL of its rows. end: SQL of their order and number.

    columns: name, type, SQL of its value ("" for the column of that name in `rows`), meaning.
    """

    rows: str
    end: str
    columns: tuple[tuple[str, pa.DataType, str, str], ...]

    @property
    def schema(self) -> pa.Schema:
        return described(*((name, kind, meaning) for name, kind, _, meaning in self.columns))

    @property
    def sql(self) -> str:
        values = ", ".join(f'{value or name} AS "{name}"' for name, _, value, _ in self.columns)
        return f"SELECT {values} FROM ({self.rows}) {self.end}"

    def table(self, database: "duckdb.DuckDBPyConnection") -> pa.Table:
        return database.sql(self.sql).to_arrow_table().cast(self.schema)
