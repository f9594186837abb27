"""The images of two runs side by side, in a DuckDB on local disk: for files of any size, number and order."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa
from pyarrow.dataset import dataset

from jobs.reporting.reduction import list_predictions
from jobs.storage.address import shown
from jobs.storage.failure import storage_errors
from jobs.storage.files import open_storage
from vit_actor.errors import UserError

MEMORY = "256MB"  # What DuckDB may hold; what is more waits on local disk
FILES, BATCHES = 8, 4  # Read ahead: hides an object store's latency

LOST, GAINED, STILL_WRONG, UNLABELLED = "right to wrong", "wrong to right", "wrong to wrong", "no label"

PAIRED = f"""
CREATE MACRO times(which) AS count(*) FILTER (which);
CREATE MACRO numbered(rows) AS TABLE
SELECT image_id, label, prediction, top5_probability[1] AS probability, error, row_number() OVER () AS row FROM query_table(rows);
CREATE MACRO nth(rows) AS TABLE  -- where ids repeat, the n-th image of an id is paired with the n-th
SELECT *, row_number() OVER (PARTITION BY image_id ORDER BY row) AS nth FROM numbered(rows);
CREATE TABLE joined AS
SELECT image_id, a.row AS row_a, b.row AS row_b, a.prediction AS prediction_a, b.prediction AS prediction_b,
  a.probability AS probability_a, b.probability AS probability_b, a.error AS error_a, b.error AS error_b,
  a.label AS label_a, b.label AS label_b
FROM nth('rows_a') AS a FULL JOIN nth('rows_b') AS b USING (image_id, nth);
CREATE VIEW pairs AS
SELECT *, coalesce(label_a <> label_b, false) AS relabelled,
  CASE WHEN NOT relabelled THEN coalesce(label_a, label_b) END AS label,
  prediction_a IS DISTINCT FROM prediction_b AS flipped, coalesce(prediction_a = label, false) AS right_a,
  coalesce(prediction_b = label, false) AS right_b,
  CASE WHEN label IS NULL THEN '{UNLABELLED}' WHEN right_a AND NOT right_b THEN '{LOST}'
    WHEN right_b AND NOT right_a THEN '{GAINED}' WHEN flipped THEN '{STILL_WRONG}' END AS kind
FROM joined WHERE row_a IS NOT NULL AND row_b IS NOT NULL;
CREATE VIEW only_in_one AS
SELECT image_id, CASE WHEN row_b IS NULL THEN 'A' ELSE 'B' END AS run, coalesce(label_a, label_b) AS label,
  coalesce(prediction_a, prediction_b) AS prediction, coalesce(row_a, row_b) AS row
FROM joined WHERE row_a IS NULL OR row_b IS NULL;
"""


@contextmanager
def paired(a: str, b: str, directory: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the view `pairs`, of the images of both runs, and `only_in_one`, of those that one run alone has.

    directory: where what memory does not hold waits. Raises UserError for what cannot be read.
    """
    with duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": directory}) as database:
        try:
            database.register("rows_a", _rows(a))
            database.register("rows_b", _rows(b))
            database.execute(PAIRED)
        except (duckdb.Error, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{shown(a)} and {shown(b)}: their predictions cannot be read side by side: {reason}") from None
        yield database


def _rows(out: str) -> pa.RecordBatchReader:
    """The rows of a run's prediction files, in the order of the files' names."""
    filesystem, path = open_storage(out)
    with storage_errors(out):
        parts, chunks, _ = list_predictions(filesystem, path)
        rows = dataset(sorted([*parts, *chunks]), filesystem=filesystem, format="parquet")
    columns = ["image_id", "label", "prediction", "top5_probability", "error"]
    return rows.scanner(columns, fragment_readahead=FILES, batch_readahead=BATCHES).to_reader()
