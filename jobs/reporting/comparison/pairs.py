"""The images of two runs side by side, in a DuckDB on local disk: for files of any size, number and order."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import batched

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.reporting.reduction import list_predictions
from jobs.storage.failure import storage_errors
from jobs.storage.files import open_file, open_storage
from vit_actor.errors import UserError

READERS = 8  # Row groups in flight: hides an object store's latency

MEMORY = "256MB"  # What DuckDB may hold; what is more waits on local disk

LOST, GAINED, STILL_WRONG, UNLABELLED = "right to wrong", "wrong to right", "wrong to wrong", "no label"

_CLASSES = {"label": pa.int32(), "prediction": pa.int32()}
SIDE = pa.schema({"image_id": pa.string(), **_CLASSES, "probability": pa.float32(), "error": pa.string()})
"""What is kept of one run's row; probability is that of the prediction."""

JOINED = """
CREATE OR REPLACE TABLE joined AS
WITH a AS (SELECT *, rowid AS row, {nth} AS nth FROM rows_a), b AS (SELECT *, rowid AS row, {nth} AS nth FROM rows_b)
SELECT image_id, a.row AS row_a, b.row AS row_b, a.prediction AS prediction_a, b.prediction AS prediction_b,
  a.probability AS probability_a, b.probability AS probability_b, a.error AS error_a, b.error AS error_b,
  a.label AS label_a, b.label AS label_b
FROM a FULL JOIN b USING (image_id, nth)
"""
NUMBERED = "row_number() OVER (PARTITION BY image_id ORDER BY rowid)"
REPEATED = "SELECT count(row_a) > (SELECT count(*) FROM rows_a) OR count(row_b) > (SELECT count(*) FROM rows_b) FROM joined"

VIEWS = f"""
CREATE VIEW pairs AS
SELECT *, coalesce(label_a <> label_b, false) AS relabelled,
  CASE WHEN NOT relabelled THEN coalesce(label_a, label_b) END AS label,
  prediction_a IS DISTINCT FROM prediction_b AS flipped, coalesce(prediction_a = label, false) AS right_a,
  coalesce(prediction_b = label, false) AS right_b,
  CASE WHEN label IS NULL THEN '{UNLABELLED}' WHEN right_a AND NOT right_b THEN '{LOST}'
    WHEN right_b AND NOT right_a THEN '{GAINED}' WHEN flipped AND NOT right_a THEN '{STILL_WRONG}' END AS kind
FROM joined WHERE row_a IS NOT NULL AND row_b IS NOT NULL;
CREATE VIEW only_in_one AS
SELECT image_id, CASE WHEN row_b IS NULL THEN 'A' ELSE 'B' END AS run, coalesce(label_a, label_b) AS label,
  coalesce(prediction_a, prediction_b) AS prediction, coalesce(row_a, row_b) AS row
FROM joined WHERE row_a IS NULL OR row_b IS NULL;
"""


@contextmanager
def paired(a: str, b: str, directory: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the view `pairs`, of the images of both runs, and `only_in_one`, of those that one run alone has.

    directory: where what memory does not hold waits. Raises UserError for a damaged file.
    """
    with duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": directory}) as database:
        for side, out in (("a", a), ("b", b)):
            database.register("rows", SIDE.empty_table())
            database.execute(f"CREATE TABLE rows_{side} AS FROM rows")
            for rows in _rows(out):
                database.register("rows", rows)
                database.execute(f"INSERT INTO rows_{side} FROM rows")
        database.execute(JOINED.format(nth=1))
        if database.sql(REPEATED).fetchall()[0][0]:  # the n-th image of an id is then paired with the n-th, in thrice the time
            database.execute(JOINED.format(nth=NUMBERED))
        database.execute("DROP TABLE rows_a; DROP TABLE rows_b")
        database.execute(VIEWS)
        yield database


def _rows(out: str) -> Iterator[pa.Table]:
    """The rows (schema SIDE) of a run's prediction files, a row group at a time, in the order of the files' names."""
    filesystem, path = open_storage(out)
    with storage_errors(out):
        parts, chunks, _ = list_predictions(filesystem, path)
        groups = [(file, 0) for file in chunks]
        for file in parts:
            with open_file(filesystem, file) as stream, _damage(file):
                groups += [(file, group) for group in range(pq.read_metadata(stream).num_row_groups)]

    def read(group: tuple[str, int]) -> pa.Table:
        file, number = group
        columns = ["image_id", "label", "prediction", "top5_probability", "error"]
        with storage_errors(file), open_file(filesystem, file) as stream, _damage(file):
            rows = pq.ParquetFile(stream).read_row_group(number, columns, use_threads=False)
            return rows.set_column(3, "probability", pc.list_element(rows["top5_probability"], 0)).cast(SIDE)

    with ThreadPoolExecutor(READERS) as readers:
        for some in batched(sorted(groups), 4 * READERS):
            yield pa.concat_tables(readers.map(read, some))


@contextmanager
def _damage(file: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, KeyError, ValueError):
        raise UserError(f"{file}: damaged, or not a file of predictions; add --resume to its job to do it again") from None
