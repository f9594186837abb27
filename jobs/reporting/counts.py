"""What prediction rows add up to, counted by DuckDB: partial counts that merge in any order and grouping, of bounded size.

Everything is an integer, a minimum, a maximum or a set, so that a sum of counts does not depend on its order.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.reporting.imagenet_sets import CORRUPTED, VALIDATION_NUMBER, Real

COLUMNS = ["image_id", "label", "prediction", "held_prediction", "top5", "top5_probability", "error"]
COLUMNS += ["batch", "started_at", "batch_seconds"]  # The columns of predictions that are counted

Counts = dict[str, pa.Table]  # One small table for each entry of PARTS, whose rows sum up some prediction rows

CALIBRATION_BINS = 15  # Equal widths of confidence, the number Guo et al. (2017) use.
CERTAIN = 1 << 24
"""A confidence of 1 as an integer: confidences add up as multiples of 2^-24, which holds a float32 in [0.5, 1] exactly."""

BUCKET_EDGES = np.rint(1e4 * 1.0099 ** np.arange(2340)).astype(np.int64)
"""Batch times in nanoseconds fall into buckets between these, each within 0.5% of its geometric middle (sqrt(1.0099) = 1.00494).

From 10 us to 28 hours; what lies beyond is put into the outermost buckets."""

WINDOWS = [round(seconds * 1e9) for seconds in (0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 86400, 604800)]
"""Window lengths in nanoseconds, each dividing the next, so that windows merge exactly into longer ones."""
MAX_WINDOWS = 200  # Windows with work grow longer until there are at most so many

REASON_LENGTHS = (160, 80, 40, 20, 10, 5, 0)  # Lengths that error messages are cut to until there are few enough distinct ones
MAX_REASONS = 500

EXAMPLES = 6  # Images that are remembered of each label and prediction
PICTURED = 24  # Least sure answers that are remembered
MOST_UNREAD = 50  # Images without an answer that are remembered


NEEDED = {"run_id", "attempt", "mesh", "description", "batch_size", "compile_seconds", "versions", "chunk", "read_cpu_seconds"}
"""What every chunk's footer says."""

CHUNKS = """
CREATE OR REPLACE TEMP TABLE chunks AS
SELECT rank, unnest(from_json(footer, '{"run_id": "VARCHAR", "attempt": "BIGINT", "mesh": "VARCHAR", "description": "VARCHAR",
  "batch_size": "BIGINT", "compile_seconds": "DOUBLE", "versions": "MAP(VARCHAR, VARCHAR)", "chunk": "VARCHAR",
  "read_cpu_seconds": "DOUBLE", "start": "MAP(VARCHAR, DOUBLE)", "opened_at": "DOUBLE",
  "shared_batches": "MAP(VARCHAR, BIGINT[])", "rows": "BIGINT", "clock": "DOUBLE", "boot": "VARCHAR"}'))
FROM (SELECT unnest($footers::VARCHAR[]) AS footer, generate_subscripts($footers::VARCHAR[], 1) AS rank)
"""
"""The footers of chunks of predictions: the attempt, mesh and device that their rows come from.

batch_size: images in a full batch. compile_seconds: what the mesh's device took to start; start: the same by phase.
chunk: name of the part of the data set that its rows are, in order; rows: how many. read_cpu_seconds: CPU time of reading and
decoding it. opened_at: Unix seconds at which the mesh was ready for its first images. shared_batches: by number, the batches that
other files have a part of: where this file's images begin among the batch's, and how many the batch has.
clock: what the host's wall clock was ahead of its monotonic one, in seconds. boot: the host's boot id, with another of which its
monotonic clock begins anew."""

NUMBERED = f"""
CREATE OR REPLACE TEMP VIEW numbered AS
SELECT *, CASE WHEN prediction IS NOT NULL THEN
  round_even(greatest(least(CASE WHEN isnan(sure) THEN 0 ELSE sure END, 1), 0) * {CERTAIN}, 0)::BIGINT END AS confidence
FROM (SELECT *, coalesce(top5_probability[1], 0)::DOUBLE AS sure FROM rows)
POSITIONAL JOIN (SELECT rank, chunk, unnest(range(rows)) AS row FROM (FROM chunks ORDER BY rank))
"""
"""The prediction rows, each with its chunk's rank and name, its row there, and, where it is classified, its confidence in
multiples of 1 / CERTAIN."""

BATCHES = """
CREATE OR REPLACE TEMP TABLE batches AS
WITH batch AS (
  SELECT rank, batch, count(*) AS images, arg_min(coalesce(epoch_us(started_at), 0), row) * 1000 AS start,
    arg_min(round_even(coalesce(batch_seconds, 0) * 1e9, 0)::BIGINT, row) AS time
  FROM numbered WHERE batch IS NOT NULL GROUP BY ALL
), in_flight AS (
  SELECT *, (sum(time) OVER (PARTITION BY rank ORDER BY batch) - time)::BIGINT AS before FROM batch
), in_turn AS (  -- a batch that is taken while others are in flight keeps the device only once those are done
  SELECT * REPLACE (max(start - before) OVER (PARTITION BY rank ORDER BY batch) + before AS start) FROM in_flight
), shared AS (  -- of a batch that several files have a part of, each counts its images' share of the time, the first the batch
  SELECT in_turn.*, attempt, mesh, batch_size, coalesce(shared_batches[batch::VARCHAR][1], 0) AS before_these,
    coalesce(shared_batches[batch::VARCHAR][2], images) AS whole
  FROM in_turn JOIN chunks USING (rank)
)
SELECT attempt, mesh, images, start + time * before_these // whole AS start, before_these = 0 AS begins,
  time * (before_these + images) // whole - time * before_these // whole AS time,
  CASE WHEN whole = batch_size AND begins THEN shared.time END AS full_time
FROM shared
"""
"""What each chunk has of each batch, and when and how long that kept the device, in nanoseconds; `full_time` of full batches."""

PARTS = {
    # By label and prediction; null where there is none.
    "answers": ("label, prediction", """
        SELECT label, prediction, 1 AS images, list_contains(top5, label)::BIGINT AS top5,
          (held_prediction IS NOT NULL)::BIGINT AS held, (held_prediction = label)::BIGINT AS held_correct,
          (len(right_classes) > 0)::BIGINT AS real_images, list_contains(right_classes, prediction)::BIGINT AS real_correct
        FROM numbered LEFT JOIN real ON number = real_number(image_id)"""),
    # Images to look at, and where they are: of each label and prediction, the wrong answers that were the surest, else any.
    "examples": ("label, prediction", f"""
        SELECT label, prediction, {{turn: CASE WHEN label <> prediction THEN {CERTAIN} - confidence
            ELSE (hash(image_id) >> 8)::BIGINT END,
          confidence: confidence, image_id: image_id, chunk: chunk, row: row}} AS kept
        FROM numbered WHERE prediction IS NOT NULL""", f"min(kept, {EXAMPLES}) AS kept"),
    # The answers that were the least sure.
    "doubtful": ("", """
        SELECT {confidence: confidence, image_id: image_id, chunk: chunk, row: row, label: label, prediction: prediction}
          AS kept
        FROM numbered WHERE prediction IS NOT NULL""", f"min(kept, {PICTURED}) AS kept"),
    # Images without an answer, by name.
    "unread": ("", f"""
        SELECT {{image_id: image_id, error: left(coalesce(nullif(error, ''), 'no prediction'), {REASON_LENGTHS[0]})}} AS kept
        FROM numbered WHERE prediction IS NULL""", f"min(kept, {MOST_UNREAD}) AS kept"),
    # By bin, the labelled images that were classified: (0, 1/15], (1/15, 2/15], ...
    "confidence": ("bin", f"""
        SELECT greatest((confidence * {CALIBRATION_BINS} - 1) // {CERTAIN}, 0) AS bin, 1 AS images,
          (label = prediction)::BIGINT AS correct, confidence
        FROM numbered WHERE label IS NOT NULL AND confidence IS NOT NULL"""),
    # Labelled images of ImageNet-C.
    "corruptions": ("corruption, severity", f"""
        SELECT regexp_extract(image_id, '{CORRUPTED}', 1) AS corruption, 1 AS images,
          regexp_extract(image_id, '{CORRUPTED}', 2)::BIGINT AS severity, coalesce(label = prediction, false)::BIGINT AS correct
        FROM numbered WHERE label IS NOT NULL AND regexp_matches(image_id, '{CORRUPTED}')"""),
    # Messages of images without an answer; numbers read N, so that messages that differ in a size or address are one.
    "reasons": ("length, reason", rf"""
        SELECT {REASON_LENGTHS[0]} AS length, 1 AS images, image_id AS example, left(
          regexp_replace(coalesce(nullif(error, ''), 'no prediction'), '\b0x[0-9a-f]+\b|\d+', 'N', 'g'), length) AS reason
        FROM numbered WHERE prediction IS NULL""", "total(images) AS images, min(example) AS example"),
    # When the batches of one mesh in one attempt were, in Unix nanoseconds: first start, last end, and time they kept it busy.
    "spans": ("attempt, mesh", """
        SELECT attempt, mesh, start, start + time AS until, images, begins::BIGINT AS batches, time AS busy FROM batches""",
        "min(start) AS start, max(until) AS until, total(COLUMNS(['images', 'batches', 'busy']))"),
    # The same work by windows, over which each batch is spread evenly; the rounding leaves every image in exactly one window.
    "windows": ("length, attempt, since, mesh", f"""
        WITH lasting AS (SELECT * REPLACE (greatest(time, 1) AS time) FROM batches),
          touched AS (
            SELECT lasting.*, length, unnest(range(start // length, (start + time - 1) // length + 1)) * length AS since
            FROM lasting, (SELECT coalesce(min(length) FILTER (longest // length < {MAX_WINDOWS}), max(length)) AS length
              FROM window_lengths, (SELECT max(time) AS longest FROM lasting))
          ),
          cut AS (SELECT *, greatest(since - start, 0) AS begun, least(since + length - start, time) AS ended FROM touched)
        SELECT length, attempt, since, mesh, images * ended // time - images * begun // time AS images,
          (begun = 0 AND begins)::BIGINT AS batches, ended - begun AS busy
        FROM cut"""),
    # Full batches by bucket of their time.
    "batch_times": ("low, high", f"""
        SELECT low, high, 1 AS batches, full_time AS time
        FROM (SELECT full_time, greatest(full_time, {BUCKET_EDGES[0]}) AS within FROM batches WHERE full_time IS NOT NULL)
        ASOF JOIN buckets ON within >= low"""),
    # Seconds of a mesh's longest start, as a whole ('all') and by phase.
    "starts": ("mesh, phase", """
        SELECT mesh, 'all' AS phase, compile_seconds AS seconds FROM chunks
        UNION ALL SELECT mesh, unnest(map_keys(start)), unnest(map_values(start)) FROM chunks""", "max(seconds) AS seconds"),
    # When a mesh was first ready, in Unix nanoseconds; nanoseconds of CPU for reading and decoding its images, on any host.
    "meshes": ("attempt, mesh", """
        SELECT attempt, mesh, round_even(nullif(opened_at, 0) * 1e9, 0)::BIGINT AS opened,
          round_even(read_cpu_seconds * 1e9, 0)::BIGINT AS read_time
        FROM chunks""", "min(opened) AS opened, total(read_time) AS read_time"),
    # The clocks of a host in one attempt and since one boot, in nanoseconds: two that differ are one that was set.
    "clocks": ("attempt, host, boot", """
        SELECT attempt, regexp_replace(mesh, '/[^/]*$', '') AS host, boot, low, low AS high
        FROM (SELECT *, round_even(clock * 1e9, 0)::BIGINT AS low FROM chunks)""", "min(low) AS low, max(high) AS high"),
    # What the footers say, each thing once.
    "facts": ("kind, name, value", """
        SELECT 'run' AS kind, run_id AS name, NULL AS value FROM chunks
        UNION ALL SELECT 'device', description, NULL FROM chunks
        UNION ALL SELECT 'batch size', batch_size::VARCHAR, NULL FROM chunks
        UNION ALL SELECT 'version', unnest(map_keys(versions)), unnest(map_values(versions)) FROM chunks""", ""),
}  # fmt: skip
"""Name of a table -> its keys, SQL of a row for each thing counted, and of the columns that sum such rows up, or sums of them.

Without the last, all other columns are added up. Of a list in `kept`, each item becomes a row."""

SHORTENED = {
    "reasons": (MAX_REASONS, f"""
      SELECT * EXCLUDE (shorter) REPLACE (shorter AS length, left(reason, shorter) AS reason)
      FROM summed, (SELECT coalesce(max(shorter), 0) AS shorter FROM (
        SELECT reason_lengths.length AS shorter FROM summed, reason_lengths
        WHERE shorter <= (SELECT min(length) FROM summed)
        GROUP BY ALL HAVING count(DISTINCT left(reason, reason_lengths.length)) <= {MAX_REASONS}))"""),
    "windows": (MAX_WINDOWS, f"""
      SELECT * EXCLUDE (longer) REPLACE (longer AS length, since // longer * longer AS since)
      FROM summed, (SELECT coalesce(min(longer), {WINDOWS[-1]}) AS longer FROM (
        SELECT window_lengths.length AS longer FROM summed, window_lengths
        WHERE longer >= (SELECT max(length) FROM summed)
        GROUP BY ALL HAVING count(DISTINCT (attempt, since // window_lengths.length)) <= {MAX_WINDOWS}))"""),
}  # fmt: skip
"""Of the two tables that could have many keys: how many may stay, and SQL of the longest messages and the shortest windows that
leave no more.

A part never needs shorter messages or longer windows than the whole, so merging in any order ends at the same."""


class Counting:
    """A database in memory that counts predictions and merges counts; one thread at a time may use it.

    real: the right classes of ImageNet's validation images, where they are to be counted too.
    threads: DuckDB's own; None for as many as there are cores.
    """

    def __init__(self, real: Real | None = None, threads: int | None = None) -> None:
        import duckdb  # here, because no mistake need wait for it

        self._database = duckdb.connect(config={"threads": threads} if threads else {})
        low, high = BUCKET_EDGES[:-1].tolist(), BUCKET_EDGES[1:].tolist()
        self._database.execute("CREATE MACRO total(x) AS sum(x)::BIGINT")
        self._database.execute(f"CREATE MACRO real_number(image_id) AS {VALIDATION_NUMBER if real else 'NULL::BIGINT'}")
        self._database.execute("CREATE TABLE real AS SELECT unnest(?) AS number, unnest(?::BIGINT[][]) AS right_classes",
                               [list(range(1, 1 + len(real or []))), real or []])  # fmt: skip
        self._database.execute("CREATE TABLE window_lengths AS SELECT unnest(?) AS length", [WINDOWS])
        self._database.execute("CREATE TABLE reason_lengths AS SELECT unnest(?) AS length", [REASON_LENGTHS])
        self._database.execute("CREATE TABLE buckets AS SELECT unnest(?) AS low, unnest(?) AS high", [low, high])

    def count(self, table: pa.Table, *footers: dict[str, Any]) -> Counts:
        """The counts of prediction rows: a table with COLUMNS of jobs/pipeline/schema.py, and its chunks' footers in order.

        Raises ValueError or KeyError where these are not what a run writes.
        """
        import duckdb

        for footer in footers:
            if lacking := NEEDED - footer.keys():
                raise KeyError(*lacking)
        self._database.register("rows", table.select(COLUMNS))
        try:
            self._database.execute(CHUNKS, {"footers": [json.dumps({"rows": len(table)} | footer) for footer in footers]})
            self._database.execute(NUMBERED)
            self._database.execute(BATCHES)
            return {name: self._summed(name, rows) for name, (_, rows, *_) in PARTS.items()}
        except duckdb.Error as error:
            raise ValueError(str(error)) from None
        finally:
            self._database.unregister("rows")

    def merge(self, *parts: Counts) -> Counts:
        """The counts of all the rows that the parts count, at least one."""
        if len(parts) == 1:
            return parts[0]
        counts = {}
        for name in PARTS:
            if tables := [part[name] for part in parts if name in part]:
                self._database.register("parts", pa.concat_tables(tables))
                counts[name] = self._summed(name, "FROM parts")
        return counts

    def _summed(self, name: str, rows: str) -> pa.Table:
        keys, _, *sums = PARTS[name]
        columns = ", ".join(filter(None, [keys, *(sums or [f"total(COLUMNS(* EXCLUDE ({keys})))"])]))
        query = f"SELECT {columns} FROM ({rows}) GROUP BY ALL"
        if "AS kept" in columns:
            query = f"SELECT * REPLACE (unnest(kept) AS kept) FROM ({query})"
        summed = self._database.sql(query).to_arrow_table()
        if name not in SHORTENED or (len(summed) <= SHORTENED[name][0] and len(set(summed["length"].to_pylist())) < 2):
            return summed
        self._database.register("summed", summed)
        return self._database.sql(f"SELECT {columns} FROM ({SHORTENED[name][1]}) GROUP BY ALL").to_arrow_table()


DAMAGED = "damaged file"


def damaged(file: str) -> Counts:
    """The counts of a file that cannot be read: its name, as a fact."""
    return {"facts": pa.table({"kind": [DAMAGED], "name": [file], "value": pa.nulls(1, pa.string())})}


def facts(counts: Counts, kind: str) -> list[str]:
    """What there is of a kind, in order."""
    return sorted(row["name"] for row in counts["facts"].to_pylist() if row["kind"] == kind)
