"""A Parquet file that is written while its rows come, however many."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 100_000
SHOWN = 200


class Growing:
    """Rows on local disk; `first` keeps the SHOWN first of them."""

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._count = 0
        self.first = schema.empty_table()

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, rows: pa.Table) -> None:
        """Append rows of the file's schema."""
        if not rows.num_rows:
            return
        if self.first.num_rows < SHOWN:
            self.first = pa.concat_tables([self.first, rows.slice(0, SHOWN - self.first.num_rows)])
        self._waiting.append(rows)
        self._count += rows.num_rows
        if self._count >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting, self._count = [], 0
