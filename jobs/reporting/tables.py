"""The report's tables, from what predictions add up to."""

import json
import math
from collections import Counter, defaultdict
from dataclasses import asdict
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

import pyarrow as pa

from jobs.pipeline.labels import NUMBERS
from jobs.reporting import schema
from jobs.reporting.columns import schema_of
from jobs.reporting.counts import CALIBRATION_BINS, CERTAIN, EXAMPLES, PICTURED, WINDOWS, Counts, facts
from jobs.reporting.label_check import doubt
from jobs.reporting.schema import FAULTS, MOST_FREQUENT_ERRORS, WAITS, Summary
from jobs.running.manifest import Manifest, counted_checks
from jobs.running.phases import PHASES
from jobs.storage.address import shown

MOST_PAIRS, OF_A_PAIR = 15, 4  # Pairs of label and wrong answer that are shown, those with most images; pictures of each
MOST_SAMPLED = 50  # Classes with pictures, those predicted most

CHECKSUMS = "simulated T3000"  # How a device's description starts whose answers are none of a model's
TOLD = ("restarts", "retries", "images_again", "given_up", "cached")
"""What the manifest counts of each attempt, under the summary's names."""

NORMAL_95 = "1.959963984540054e0"  # The normal quantile of 95% coverage

NAMED = "CREATE MACRO named(class) AS coalesce(getvariable('names')[class + 1], class::VARCHAR)"
"""A class's name, where the variable `names` has it; null of no class."""

MACROS = f"""
CREATE MACRO total(x) AS coalesce(sum(x)::BIGINT, 0);
CREATE MACRO total_of(x, which) AS coalesce(sum(x) FILTER (which)::BIGINT, 0);
CREATE MACRO share(k, n) AS CASE WHEN n > 0 THEN k / n END;
CREATE MACRO middle(k, n) AS k / n + {NORMAL_95} * {NORMAL_95} / n / 2;
CREATE MACRO half(k, n) AS {NORMAL_95} * sqrt(k / n * (1 - k / n) / n + {NORMAL_95} * {NORMAL_95} / n / (4 * n));
CREATE MACRO low(k, n) AS CASE WHEN n > 0 AND k >= 0
  THEN greatest(0, (middle(k, n) - half(k, n)) / (1 + {NORMAL_95} * {NORMAL_95} / n)) END;
CREATE MACRO high(k, n) AS CASE WHEN n > 0 AND k >= 0
  THEN least(1, (middle(k, n) + half(k, n)) / (1 + {NORMAL_95} * {NORMAL_95} / n)) END;
CREATE VIEW longest AS SELECT mesh, map_from_entries(list((phase, seconds))) AS took FROM starts GROUP BY mesh;
CREATE VIEW present AS SELECT *, greatest(until, start + busy) AS ended FROM spans;
CREATE VIEW attempts AS SELECT attempt, min(start) AS start, max(ended) AS ended FROM present GROUP BY attempt;
"""
"""low, high: ends of the 95% Wilson score interval of a proportion of k in n.

A mesh completes one batch at a time, so its last batch ended no sooner than its first began plus all of its busy time."""

TABLES = {
    "per_class": (
        schema.PER_CLASS,
        """WITH labelled AS (
          SELECT label AS class, total(images) AS images, total_of(images, label = prediction) AS correct, total(top5) AS top5,
            total_of(images, prediction IS NULL) AS errors
          FROM answers WHERE label IS NOT NULL GROUP BY label
        ), predicted AS (
          SELECT prediction AS class, total(images) AS predicted FROM answers WHERE prediction IS NOT NULL GROUP BY prediction
        ), confused AS (
          SELECT label AS class, prediction AS wrong, images AS times FROM answers WHERE label <> prediction
          QUALIFY row_number() OVER (PARTITION BY label ORDER BY images DESC, prediction) = 1
        ), every AS (
          SELECT unnest(range(greatest(len(getvariable('names')), 1 + (SELECT max(greatest(label, prediction)) FROM answers))))
            AS class
        )
        SELECT class, named(class) AS name, coalesce(images, 0) AS images, coalesce(correct, 0) AS correct,
          coalesce(top5, 0) AS top5_correct, coalesce(errors, 0) AS errors, coalesce(predicted, 0) AS predicted,
          share(correct, images) AS accuracy, low(correct, images) AS accuracy_low, high(correct, images) AS accuracy_high,
          wrong AS confused_with, named(wrong) AS confused_with_name,
          coalesce(times, 0) AS confused_images
        FROM every LEFT JOIN labelled USING (class) LEFT JOIN predicted USING (class) LEFT JOIN confused USING (class)
        ORDER BY class""",
    ),
    "confusion": (
        schema.CONFUSION,
        f"""SELECT label, named(label) AS label_name, prediction, named(prediction) AS predicted_name, images AS count,
          example.image_id AS example, example.confidence / {CERTAIN} AS example_probability
        FROM answers LEFT JOIN (
          SELECT label, prediction, min(kept) AS example FROM examples WHERE label <> prediction GROUP BY ALL
        ) USING (label, prediction)
        WHERE label IS NOT NULL AND prediction IS NOT NULL ORDER BY images DESC, label, prediction""",
    ),
    "corruptions": (
        schema.CORRUPTIONS,
        """SELECT *, share(correct, images) AS accuracy, low(correct, images) AS accuracy_low,
          high(correct, images) AS accuracy_high
        FROM corruptions ORDER BY corruption, severity""",
    ),
    "calibration": (
        schema.CALIBRATION,
        f"""SELECT bin / {CALIBRATION_BINS} AS confidence_from, (bin + 1) / {CALIBRATION_BINS} AS confidence_to,
          coalesce(images, 0) AS images, coalesce(correct, 0) AS correct, confidence / (images * {CERTAIN}) AS mean_confidence,
          share(correct, images) AS accuracy, low(correct, images) AS accuracy_low, high(correct, images) AS accuracy_high
        FROM (SELECT unnest(range({CALIBRATION_BINS})) AS bin) LEFT JOIN confidence USING (bin) ORDER BY bin""",
    ),
    "meshes": (
        schema.MESHES,
        """SELECT attempt, mesh, images, batches, took['all'] AS compile_seconds, took['import'] AS import_seconds,
          took['open'] AS open_seconds, took['weights'] AS weights_seconds, took['programs'] AS programs_seconds,
          took['trace'] AS trace_seconds, trunc(took['kernels_built']) AS kernels_built,
          busy / 1e9 AS busy_seconds, greatest(0, present.start - coalesce(opened, attempts.start)) / 1e9 AS wait_start_seconds,
          (present.ended - present.start - busy) / 1e9 AS idle, least(idle, coalesce(down.seconds, 0)) AS wait_faults_seconds,
          idle - wait_faults_seconds AS wait_stream_seconds,
          (attempts.ended - present.ended) / 1e9 AS wait_tail_seconds, read_time / 1e9 AS decode_cpu_seconds
        FROM present JOIN attempts USING (attempt) JOIN meshes USING (attempt, mesh) JOIN longest USING (mesh)
          LEFT JOIN down USING (attempt, mesh)
        ORDER BY attempt, mesh""",
    ),
    # Windows are no shorter than a mean batch. Those that the ends of an attempt cut are shorter; one whose rest is too short to
    # give a rate joins its neighbour.
    "throughput": (
        schema.THROUGHPUT,
        f"""WITH of_length AS (
          SELECT greatest(max(windows.length), (SELECT coalesce(min(each), {WINDOWS[-1]}) FROM (SELECT unnest({WINDOWS}) AS each)
            WHERE each >= (SELECT total(busy) // nullif(total(batches), 0) FROM spans))) AS long
          FROM windows
        ), bounds AS (
          SELECT *, (start + long // 2) // long AS lowest, greatest((ended - long // 2 - 1) // long, lowest) AS highest
          FROM attempts, of_length
        ), joined AS (
          SELECT attempt, mesh, least(greatest(since // long, lowest), highest) AS number, any_value(bounds) AS of,
            total(images) AS images, total(batches) AS batches, total(busy) AS busy
          FROM windows JOIN bounds USING (attempt) GROUP BY ALL
        ), timed AS (
          SELECT *, CASE number WHEN of.lowest THEN of.start ELSE number * of.long END AS since,
            (CASE number WHEN of.highest THEN of.ended ELSE (number + 1) * of.long END - since) / 1e9 AS window_seconds
          FROM joined
        )
        SELECT attempt, since // 1000 AS window_start, window_seconds, mesh, images, batches, busy / 1e9 AS busy_seconds,
          images / window_seconds AS fps, took['all'] AS compile_seconds
        FROM timed JOIN longest USING (mesh) ORDER BY attempt, number, mesh""",
    ),
    "batch_times": (
        schema.BATCH_TIMES,
        "SELECT low / 1e6 AS from_ms, high / 1e6 AS to_ms, batches FROM batch_times ORDER BY low",
    ),
    "errors": (
        schema.ERRORS,
        f"SELECT reason, images, example FROM reasons ORDER BY images DESC, reason LIMIT {MOST_FREQUENT_ERRORS}",
    ),
}
"""Name -> schema, and SQL of the table from those of the counts."""

TOTALS = f"""
SELECT total(images) AS images, total_of(images, prediction IS NULL) AS errors, total_of(images, label IS NOT NULL) AS labelled,
  total_of(images, label = prediction) AS correct, total(top5) AS top5_correct, total(real_images) AS real_images,
  total(held) AS held, total(held_correct) AS held_correct, total(real_correct) AS real_correct,
  (SELECT sum(abs(correct * {CERTAIN} - confidence)) / (sum(images) * {CERTAIN}) FROM confidence) AS ece
FROM answers
"""

SHARES = """
SELECT each.name, share(each.k, each.n) AS share, low(each.k, each.n) AS low, high(each.k, each.n) AS high
FROM (SELECT unnest($shares::STRUCT(name VARCHAR, k BIGINT, n BIGINT)[]) AS each)
"""

TIMES = """
WITH device AS (
  SELECT sum(images) AS images, sum(busy)::BIGINT AS busy, sum(ended - start)::BIGINT AS present, total(batches) AS batches
  FROM present
), active AS (
  SELECT count(*) AS attempts, total(ended - start) / 1e9 AS active_seconds FROM attempts
), times AS (
  SELECT total(batches) AS full_batches, total(time) / nullif(full_batches, 0) / 1e6 AS inference_ms FROM batch_times
), compiled AS (
  SELECT max(seconds) FILTER (phase = 'all') AS compile_seconds,
    max(seconds) FILTER (phase = 'kernels_built')::BIGINT AS kernels_built
  FROM starts
)
SELECT attempts, active_seconds, images / nullif(active_seconds, 0) AS system_fps, images / nullif(busy / 1e9, 0) AS device_fps,
  busy / nullif(present, 0) AS device_busy, batches, times.*, compiled.*
FROM device, active, times, compiled
"""
"""The parts of the summary that are counted."""

PICTURES = f"""
WITH kept AS (SELECT label, prediction, unnest(kept) FROM examples),
  wrong AS (SELECT * FROM kept WHERE label <> prediction ORDER BY turn, image_id),
  pairs AS (
    SELECT label, prediction FROM answers WHERE label <> prediction ORDER BY images DESC, label, prediction LIMIT {MOST_PAIRS}
  ), classes AS (
    SELECT prediction FROM answers WHERE prediction IS NOT NULL GROUP BY prediction ORDER BY total(images) DESC, prediction
    LIMIT {MOST_SAMPLED}
  )
SELECT place, image_id, chunk, row, label, prediction, named(label), named(prediction), confidence / {CERTAIN}
FROM (
  FROM (SELECT 'mistakes' AS place, * FROM wrong LIMIT {PICTURED})
  UNION ALL BY NAME SELECT 'doubt' AS place, 0 AS turn, unnest(kept) FROM doubtful
  UNION ALL BY NAME SELECT 'pair' AS place, * FROM wrong SEMI JOIN pairs USING (label, prediction)
    QUALIFY row_number() OVER (PARTITION BY label, prediction ORDER BY turn, image_id) <= {OF_A_PAIR}
  UNION ALL BY NAME SELECT 'class' AS place, * FROM kept SEMI JOIN classes USING (prediction)
    WHERE label IS NOT DISTINCT FROM prediction OR label IS NULL
    QUALIFY row_number() OVER (PARTITION BY prediction ORDER BY turn, image_id) <= {EXAMPLES}
)
ORDER BY place, CASE place WHEN 'doubt' THEN confidence ELSE turn END, image_id
"""


class Picture(NamedTuple):
    """An image to look at: the `row`-th of `chunk`, with its answer and what that is held against.

    place: where it is shown: among all `mistakes`, as a `doubt`, with its `pair` of label and prediction, with its `class`.
    """

    place: str
    image_id: str
    chunk: str
    row: int
    label: int | None
    prediction: int
    label_name: str | None
    predicted_name: str
    probability: float


class Reports:
    """The tables of one run, from its counts and, where it has one, its manifest; computed by DuckDB."""

    def __init__(self, counts: Counts, manifest: Manifest | None) -> None:
        import duckdb  # here, because no mistake need wait for it

        self._counts, self.manifest = counts, manifest
        self._database = duckdb.connect()
        for name, table in counts.items():
            self._database.register(name, table)
        self._database.execute("SET VARIABLE names = ?::VARCHAR[]", [manifest.class_names if manifest else []])
        down = [
            {"attempt": attempt["attempt"], "mesh": mesh, "seconds": seconds}
            for attempt in self._attempts
            for mesh, seconds in attempt.get("down_seconds", {}).items()
        ]
        rows = "SELECT unnest($1::STRUCT(attempt BIGINT, mesh VARCHAR, seconds DOUBLE)[], recursive := true)"
        self._database.execute(f"CREATE TABLE down AS {rows}", [down])
        self._database.execute(NAMED)
        self._database.execute(MACROS)
        self.table = cache(self._table)

    def _table(self, name: str) -> pa.Table:
        """One of TABLES; the manifest may name fewer classes than were seen."""
        columns, query = TABLES[name]
        return self._database.sql(query).to_arrow_table().select(columns.names).cast(columns)

    def tables(self) -> dict[str, pa.Table]:
        """Every table but the summary, by name."""
        return {name: self.table(name) for name in TABLES} | {"faults": self._faults()}

    def summary(self) -> Summary:
        counted, times = self._one(TOTALS), self._one(TIMES)
        held, held_correct, real_correct = (counted.pop(name) for name in ("held", "held_correct", "real_correct"))
        manifest, attempts = self.manifest, self._attempts
        devices, batch_sizes = facts(self._counts, "device"), facts(self._counts, "batch size")
        query = "SELECT DISTINCT host FROM clocks WHERE high - low > 1e9 ORDER BY host"
        clocks = [host for (host,) in self._database.sql(query).fetchall()]
        checksums = all(device.startswith(CHECKSUMS) for device in devices)  # which say nothing of labels
        checks, failed_checks = counted_checks(attempts)
        names, numbered = (manifest.class_names, NUMBERS in manifest.labels_from) if manifest else ([], True)
        if clocks:  # hosts and attempts cannot be put on one scale of time
            times |= {"system_fps": None, "device_busy": None}
        return Summary(
            **counted,
            **times,
            clocks_set=clocks,
            **self._shares(
                top1=(counted["correct"], counted["labelled"]),
                top5=(counted["top5_correct"], counted["labelled"]),
                held_top1=(held_correct, counted["labelled"] if held else 0),
                real_top1=(real_correct, counted["real_images"]),
            ),
            corrupted_top1=self._corrupted(),
            meshes=max(Counter(self.table("meshes")["attempt"].to_pylist()).values(), default=0),
            run_id=facts(self._counts, "run")[0],
            job=manifest.job if manifest else None,
            data=shown(manifest.data) if manifest else None,
            model=manifest.model if manifest else None,
            model_digest=manifest.model_digest if manifest else None,
            planned=manifest.images if manifest else None,
            labels_from=(manifest.labels_from if manifest else None) or None,
            label_doubt=None if checksums else doubt(self._counts["answers"], names, numbered),
            left_out=sum(manifest.left_out.values()) if manifest else 0,
            left_out_kinds=[f"{count:,} {kind}" for kind, count in manifest.left_out.items()] if manifest else [],
            killed_attempts=len(self._killed),
            **{told: sum(attempt.get(told, 0) for attempt in attempts) for told in TOLD},
            checks=checks,
            failed_checks=failed_checks,
            lost_hosts=[host for attempt in attempts for host in attempt.get("lost_hosts", [])],
            devices=devices,
            simulated=any(device.startswith("simulated") for device in devices),
            **{wait: sum(self.table("meshes")[wait].to_pylist()) for wait in (f"wait_{reason}_seconds" for reason in WAITS)},
            batch_size=int(batch_sizes[0]) if len(batch_sizes) == 1 else None,
            inference_p50_ms=self._quantile(0.5),
            inference_p99_ms=self._quantile(0.99),
            **self.job_time(counted["images"]),
            config=json.dumps(manifest.settings if manifest else {}, sort_keys=True),
            versions=json.dumps(self._versions(), sort_keys=True),
        )

    def row(self, summary: Summary) -> pa.Table:
        """The summary as the table it is written as."""
        return self._database.sql("SELECT unnest($1)", params=[asdict(summary)]).to_arrow_table().cast(schema_of(Summary))

    def pictures(self) -> list[Picture]:
        """The surest mistakes, of all and of the most confused pairs; the least sure answers; samples of classes; by place."""
        return [Picture(*row) for row in self._database.sql(PICTURES).fetchall()]

    def unread(self) -> list[dict[str, str]]:
        """The first images without an answer: `image_id` and `error`."""
        return [row["kept"] for row in self._database.sql("FROM unread ORDER BY kept").to_arrow_table().to_pylist()]

    def _one(self, query: str) -> dict[str, Any]:
        return self._database.sql(query).to_arrow_table().to_pylist()[0]

    def _shares(self, **shares: tuple[int, int]) -> dict[str, Any]:
        """Of each (k, n) by name: k / n and its interval, or Nones of nothing."""
        asked = [{"name": name, "k": k, "n": n} for name, (k, n) in shares.items()]
        found = self._database.sql(SHARES, params={"shares": asked}).fetchall()
        return {f"{name}{end}": value for name, *of in found for end, value in zip(("", "_low", "_high"), of, strict=True)}

    def _corrupted(self) -> float | None:
        """Mean corruption accuracy: over corruptions, of the mean over each one's severities; None without corrupted images."""
        accuracies = defaultdict(list)
        for row in self.table("corruptions").to_pylist():
            accuracies[row["corruption"]].append(row["accuracy"])
        return fmean(map(fmean, accuracies.values())) if accuracies else None

    def _quantile(self, share: float) -> float | None:
        """The batch time in ms that `share` of the full batches do not exceed (nearest rank), within 0.5%."""
        ranked = "SELECT low, high, sum(batches) OVER (ORDER BY low) AS rank, sum(batches) OVER () AS batches FROM batch_times"
        query = f"SELECT low, high FROM ({ranked}) WHERE rank >= ceil({share}::DOUBLE * batches) ORDER BY low LIMIT 1"
        found = self._database.execute(query).fetchall()
        return math.sqrt(found[0][0] * found[0][1]) / 1e6 if found else None

    @property
    def _attempts(self) -> list[dict[str, Any]]:
        return self.manifest.attempts if self.manifest else []

    @property
    def _killed(self) -> list[dict[str, Any]]:
        """Attempts that never ended although a later one began."""
        return [attempt for attempt in self._attempts[:-1] if attempt["ended_at"] is None]

    def job_time(self, images: int) -> dict[str, Any]:
        """Seconds of the whole command by phase, summed over attempts, and its rate; Nones where an attempt told none."""
        measured = [attempt["seconds"] for attempt in self._attempts if "seconds" in attempt]
        phases = {phase: sum(seconds.get(phase, 0.0) for seconds in measured) for phase in PHASES}
        total = sum(phases.values())
        if not total or len(measured) < len(self._attempts):  # images of an untimed attempt over the others' time: too fast
            return dict.fromkeys([*(f"{phase}_seconds" for phase in PHASES), "job_seconds", "job_fps"])
        return {f"{phase}_seconds": took for phase, took in phases.items()} | {"job_seconds": total, "job_fps": images / total}

    def _versions(self) -> dict[str, str]:
        """By name; where meshes or attempts differ, all of them. What ran beats what the manifest says."""
        seen: defaultdict[str, list[str]] = defaultdict(list)
        for row in sorted(self._counts["facts"].to_pylist(), key=lambda row: (row["name"], row["value"] or "")):
            if row["kind"] == "version":
                seen[row["name"]].append(row["value"])
        return {**(self.manifest.versions if self.manifest else {}), **{name: ", ".join(all) for name, all in seen.items()}}

    def _faults(self) -> pa.Table:
        rows: list[dict[str, Any]] = []
        for attempt in self._attempts:
            found = [{**event, "at": round(event["at"] * 1e6)} for event in attempt.get("events", [])]
            found += [{"kind": "host", "where": host, "what": "the host was lost"} for host in attempt.get("lost_hosts", [])]
            if attempt in self._killed:
                found.append({"kind": "driver", "where": "driver", "what": "the driver was killed"})
            rows += [{"at": None, **fault, "attempt": attempt["attempt"]} for fault in found]
        return pa.Table.from_pylist(rows, schema=FAULTS) if rows else pa.Table.from_batches([], FAULTS)
