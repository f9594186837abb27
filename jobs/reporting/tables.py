"""The report's tables, from what predictions add up to."""

import json
from collections import Counter, defaultdict
from dataclasses import asdict
from functools import cached_property
from statistics import fmean
from typing import Any

import pyarrow as pa

from jobs.pipeline.labels import NUMBERS
from jobs.reporting.columns import INT, LONG, REAL, TEXT, TIME, Query, schema_of
from jobs.reporting.counts import CALIBRATION_BINS, CERTAIN, EXAMPLES, PICTURED, WINDOWS, Counts, facts
from jobs.reporting.intervals import WILSON
from jobs.reporting.label_check import doubt
from jobs.reporting.schema import WAITS, Summary
from jobs.running.manifest import Manifest, counted_checks
from jobs.running.phases import PHASES
from jobs.storage.address import shown

MOST_FREQUENT_ERRORS = 50
MOST_PAIRS, OF_A_PAIR = 15, 4  # Pairs of label and wrong answer that are shown, those with most images; pictures of each
MOST_SAMPLED = 50  # Classes with pictures, those predicted most

CHECKSUMS = "simulated T3000"  # How a device's description starts whose answers are none of a model's
TOLD = ("restarts", "retries", "images_again", "given_up", "cached")
"""What the manifest counts of each attempt, under the summary's names."""

NAMED = "CREATE MACRO named(class) AS coalesce(getvariable('names')[class + 1], class::VARCHAR)"
"""A class's name, where the variable `names` has it; null of no class."""

PREPARED = f"""
{NAMED};
{WILSON}
CREATE MACRO total(x) AS coalesce(sum(x)::BIGINT, 0);
CREATE MACRO total_of(x, which) AS coalesce(sum(x) FILTER (which)::BIGINT, 0);
CREATE VIEW longest AS SELECT mesh, map_from_entries(list((phase, seconds))) AS took FROM starts GROUP BY mesh;
CREATE VIEW present AS SELECT *, greatest(until, start + busy) AS ended FROM spans;
CREATE VIEW attempts AS SELECT attempt, min(start) AS start, max(ended) AS ended FROM present GROUP BY attempt;
"""
"""A mesh completes one batch at a time, so its last batch ended no sooner than its first began plus all of its busy time."""

INTERVAL = (
    ("accuracy_low", REAL, "low(correct, images)", "lower end of its 95% Wilson interval"),
    ("accuracy_high", REAL, "high(correct, images)", "upper end of its 95% Wilson interval"),
)
ATTEMPT = ("attempt", INT, "", "start of the run: 1, and one more for each resume")

TABLES = {
    "per_class": Query("""
        WITH labelled AS (
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
        FROM every LEFT JOIN labelled USING (class) LEFT JOIN predicted USING (class) LEFT JOIN confused USING (class)
    """, "ORDER BY class", (
        ("class", INT, "", "class in the checkpoint's order"),
        ("name", TEXT, "named(class)", "its name"),
        ("images", LONG, "coalesce(images, 0)", "images with this label, errors included"),
        ("correct", LONG, "coalesce(correct, 0)", "of those, classified as this class"),
        ("top5_correct", LONG, "coalesce(top5, 0)", "of those, with this class among the five best"),
        ("errors", LONG, "coalesce(errors, 0)", "of those, not classified for an error"),
        ("predicted", LONG, "coalesce(predicted, 0)", "images classified as this class, with any label or none"),
        ("accuracy", REAL, "share(correct, images)", "correct / images; null without images"),
        *INTERVAL,
        ("confused_with", INT, "wrong", "wrong class most often predicted for this label (the lower of equals); null if none"),
        ("confused_with_name", TEXT, "named(wrong)", "its name"),
        ("confused_images", LONG, "coalesce(times, 0)", "how often"),
    )),
    "confusion": Query("""
        FROM answers LEFT JOIN (
          SELECT label, prediction, min(kept) AS surest FROM examples WHERE label <> prediction GROUP BY ALL
        ) USING (label, prediction)
        WHERE label IS NOT NULL AND prediction IS NOT NULL""", "ORDER BY images DESC, label, prediction", (
        ("label", INT, "", "true class"),
        ("label_name", TEXT, "named(label)", "its name"),
        ("prediction", INT, "", "best class; equal to label on the diagonal, which is included"),
        ("predicted_name", TEXT, "named(prediction)", "its name"),
        ("count", LONG, "images", "classified images with that label and prediction; most first, pairs without any left out"),
        ("example", TEXT, "surest.image_id",
         "of those, the image_id of the one whose answer was the surest; null on the diagonal"),
        ("example_probability", REAL, f"surest.confidence / {CERTAIN}", "the probability of that answer"),
    )),
    "corruptions": Query("FROM corruptions", "ORDER BY corruption, severity", (
        ("corruption", TEXT, "", "of ImageNet-C (Hendrycks and Dietterich 2019), by the image's folders"),
        ("severity", LONG, "", "1 to 5"),
        ("images", LONG, "", "labelled images, errors included; without any there is no row"),
        ("correct", LONG, "", "of those, the ones whose best class is the label"),
        ("accuracy", REAL, "share(correct, images)", "correct / images"),
        *INTERVAL,
    )),
    "calibration": Query(f"""
        FROM (SELECT unnest(range({CALIBRATION_BINS})) AS bin) LEFT JOIN confidence USING (bin)
    """, "ORDER BY bin", (
        ("confidence_from", REAL, f"bin / {CALIBRATION_BINS}", "the bin's confidences are above this (the first bin's: from it)"),
        ("confidence_to", REAL, f"(bin + 1) / {CALIBRATION_BINS}",
         "up to and including this; confidence is the top-1 probability"),
        ("images", LONG, "coalesce(images, 0)", "labelled, classified images with such a confidence"),
        ("correct", LONG, "coalesce(correct, 0)", "of those, the ones whose best class is the label"),
        ("mean_confidence", REAL, f"confidence / (images * {CERTAIN})", "their mean confidence; null without images"),
        ("accuracy", REAL, "share(correct, images)",
         "correct / images; a calibrated model's equals mean_confidence; null without images"),
        *INTERVAL,
    )),
    "meshes": Query("""
        SELECT *, greatest(0, start - coalesce(opened, first)) / 1e9 AS wait_start_seconds,
          (ended - start - busy) / 1e9 AS idle, least(idle, coalesce(seconds, 0)) AS wait_faults_seconds,
          idle - wait_faults_seconds AS wait_stream_seconds, (last - ended) / 1e9 AS wait_tail_seconds
        FROM present JOIN meshes USING (attempt, mesh) JOIN longest USING (mesh) LEFT JOIN down USING (attempt, mesh)
          JOIN (SELECT attempt, start AS first, ended AS last FROM attempts) USING (attempt)""", "ORDER BY attempt, mesh", (
        ATTEMPT,
        ("mesh", TEXT, "", "the device"),
        ("images", LONG, "", "images it classified"),
        ("batches", LONG, "", "batches it ran"),
        ("compile_seconds", REAL, "took['all']", "weights, programs and trace; the longest start if it started more than once"),
        ("import_seconds", REAL, "took['import']", "loading its library, before it is opened; null where not measured"),
        ("open_seconds", REAL, "took['open']", "opening its chips; null without chips"),
        ("weights_seconds", REAL, "took['weights']",
         "of compile_seconds: laying out and copying the weights; null where not apart"),
        ("programs_seconds", REAL, "took['programs']", "of compile_seconds: compiling programs and their kernels"),
        ("trace_seconds", REAL, "took['trace']", "of compile_seconds: capturing the trace; null without one"),
        ("kernels_built", LONG, "trunc(took['kernels_built'])",
         "kernels that were compiled for want of a cached one: 0 in a warm start; null without chips"),
        ("busy_seconds", REAL, "busy / 1e9", "seconds its batches kept it: upload, compute and read-back, which overlap"),
        *((f"wait_{reason}_seconds", REAL, "", f"seconds it waited: {meaning}") for reason, meaning in WAITS.items()),
        ("decode_cpu_seconds", REAL, "read_time / 1e9",
         "CPU time of reading and decoding its images, meanwhile, on any host's cores"),
    )),
    # Windows are no shorter than a mean batch. Those that the ends of an attempt cut are shorter; one whose rest is too short to
    # give a rate joins its neighbour.
    "throughput": Query(f"""
        WITH of_length AS (
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
        )
        SELECT *, CASE number WHEN of.lowest THEN of.start ELSE number * of.long END AS since,
          (CASE number WHEN of.highest THEN of.ended ELSE (number + 1) * of.long END - since) / 1e9 AS seconds
        FROM joined JOIN longest USING (mesh)""", "ORDER BY attempt, number, mesh", (
        ATTEMPT,
        ("window_start", TIME, "since // 1000", "start of the time window"),
        ("window_seconds", REAL, "seconds", "its length, within the attempt's first batch start and last batch end"),
        ("mesh", TEXT, "", "the device; one without work in a window has no row there"),
        ("images", LONG, "", "images it classified in the window; a batch across windows is shared out by time"),
        ("batches", LONG, "", "batches it began in the window"),
        ("busy_seconds", REAL, "busy / 1e9", "seconds of the window its batches kept it"),
        ("fps", REAL, "images / seconds", "images / window_seconds: includes waiting; images / busy_seconds is the device alone"),
        ("compile_seconds", REAL, "took['all']", "initial compile of the mesh, the longest if it started more than once"),
    )),
    "batch_times": Query("FROM batch_times", "ORDER BY low", (
        ("from_ms", REAL, "low / 1e6", "shortest batch time of the bucket, milliseconds"),
        ("to_ms", REAL, "high / 1e6", "longest"),
        ("batches", LONG, "", "full batches in it"),
    )),
    "errors": Query("FROM reasons", f"ORDER BY images DESC, reason LIMIT {MOST_FREQUENT_ERRORS}", (
        ("reason", TEXT, "", "why images could not be classified; numbers read N, long or too various texts are cut"),
        ("images", LONG, "", f"images lost to it; the {MOST_FREQUENT_ERRORS} most frequent reasons"),
        ("example", TEXT, "", "of those, the first by image_id"),
    )),
    "faults": Query("FROM faults", "", (
        ATTEMPT,
        ("at", TIME, 'round_even("at" * 1e6, 0)::BIGINT', "when it was noticed; null for a lost host and a killed driver"),
        ("kind", TEXT, "", "restart, retry, device, image, host or driver"),
        ("where", TEXT, '"where"', "the mesh, chunk or host"),
        ("what", TEXT, "", "what happened, in one line; the first 1,000 of an attempt"),
    )),
}  # fmt: skip
"""Of the counts' tables, and of the manifest's `down` and `faults`."""

SHARES = {
    "top1": ("correct", "labelled"),
    "top5": ("top5_correct", "labelled"),
    "held_top1": ("held_correct", "held_images"),
    "real_top1": ("real_correct", "real_images"),
}
TOTALS = f"""
SELECT *, answered / nullif(active_seconds, 0) AS system_fps,
  {", ".join(f"share({k}, {n}) AS {it}, low({k}, {n}) AS {it}_low, high({k}, {n}) AS {it}_high" for it, (k, n) in SHARES.items())}
FROM (
  SELECT total(images) AS images, total_of(images, prediction IS NULL) AS errors, total_of(images, label IS NOT NULL) AS labelled,
    total_of(images, label = prediction) AS correct, total(top5) AS top5_correct, total(held_correct) AS held_correct,
    CASE WHEN total(held) > 0 THEN labelled ELSE 0 END AS held_images, total(real_images) AS real_images,
    total(real_correct) AS real_correct,
    (SELECT sum(abs(correct * {CERTAIN} - confidence)) / (sum(images) * {CERTAIN}) FROM confidence) AS ece
  FROM answers
), (
  SELECT sum(images) / nullif(sum(busy)::BIGINT / 1e9, 0) AS device_fps, total(batches) AS batches,
    sum(busy)::BIGINT / nullif(sum(ended - start)::BIGINT, 0) AS device_busy, sum(images) AS answered
  FROM present
), (
  SELECT count(*) AS attempts, total(ended - start) / 1e9 AS active_seconds FROM attempts
), (
  SELECT total(batches) AS full_batches, total(time) / nullif(full_batches, 0) / 1e6 AS inference_ms FROM batch_times
), (  -- of the nearest ranks, within 0.5%
  SELECT min(ms) FILTER (rank >= ceil(0.5::DOUBLE * batches)) AS inference_p50_ms,
    min(ms) FILTER (rank >= ceil(0.99::DOUBLE * batches)) AS inference_p99_ms
  FROM (SELECT sqrt(low::DOUBLE * high) / 1e6 AS ms, sum(batches) OVER (ORDER BY low) AS rank, sum(batches) OVER () AS batches
    FROM batch_times)
), (
  SELECT max(seconds) FILTER (phase = 'all') AS compile_seconds,
    max(seconds) FILTER (phase = 'kernels_built')::BIGINT AS kernels_built
  FROM starts
)
"""
"""The parts of the summary that are counted, and some more."""

PICTURES = f"""
WITH kept AS (SELECT label, prediction, unnest(kept) FROM examples),
  wrong AS (SELECT * FROM kept WHERE label <> prediction ORDER BY turn, image_id),
  pairs AS (
    SELECT label, prediction FROM answers WHERE label <> prediction ORDER BY images DESC, label, prediction LIMIT {MOST_PAIRS}
  ), classes AS (
    SELECT prediction FROM answers WHERE prediction IS NOT NULL GROUP BY prediction ORDER BY total(images) DESC, prediction
    LIMIT {MOST_SAMPLED}
  )
SELECT place, image_id, chunk, row, label, prediction, named(label) AS label_name, named(prediction) AS predicted_name,
  confidence / {CERTAIN} AS probability
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
"""Images to look at: the `row`-th of `chunk`, with its answer and what that is held against.

place: where it is shown: among all `mistakes`, as a `doubt`, with its `pair` of label and prediction, with its `class`."""


class Reports:
    """The tables of one run, from its counts and, where it has one, its manifest; computed by DuckDB."""

    def __init__(self, counts: Counts, manifest: Manifest | None) -> None:
        import duckdb  # here, because no mistake need wait for it

        self._counts, self.manifest = counts, manifest
        self._attempts = manifest.attempts if manifest else []
        self._database = duckdb.connect()
        for name, table in counts.items():
            self._database.register(name, table)
        self._database.execute("SET VARIABLE names = ?::VARCHAR[]", [manifest.class_names if manifest else []])
        self._create("down", "attempt BIGINT, mesh VARCHAR, seconds DOUBLE", [
            {"attempt": attempt["attempt"], "mesh": mesh, "seconds": seconds}
            for attempt in self._attempts for mesh, seconds in attempt.get("down_seconds", {}).items()
        ])  # fmt: skip
        self._create("faults", 'attempt BIGINT, "at" DOUBLE, kind VARCHAR, "where" VARCHAR, what VARCHAR', [
            {"at": None, **fault, "attempt": attempt["attempt"]}
            for attempt in self._attempts for fault in self._faults(attempt)
        ])  # fmt: skip
        self._database.execute(PREPARED)

    def _create(self, name: str, columns: str, rows: list[dict[str, Any]]) -> None:
        self._database.execute(f"CREATE TABLE {name} AS SELECT unnest($1::STRUCT({columns})[], recursive := true)", [rows])

    def _faults(self, attempt: dict[str, Any]) -> list[dict[str, Any]]:
        lost = [{"kind": "host", "where": host, "what": "the host was lost"} for host in attempt.get("lost_hosts", [])]
        killed = [{"kind": "driver", "where": "driver", "what": "the driver was killed"}] if attempt in self._killed else []
        return [*attempt.get("events", []), *lost, *killed]

    @property
    def _killed(self) -> list[dict[str, Any]]:
        """Attempts that never ended although a later one began."""
        return [attempt for attempt in self._attempts[:-1] if attempt["ended_at"] is None]

    @cached_property
    def tables(self) -> dict[str, pa.Table]:
        """Every table but the summary, by name. The manifest may name fewer classes than were seen."""
        return {name: query.table(self._database) for name, query in TABLES.items()}

    def summary(self) -> Summary:
        counted = self._rows(TOTALS)[0]
        manifest, attempts = self.manifest, self._attempts
        devices, batch_sizes = facts(self._counts, "device"), facts(self._counts, "batch size")
        clocks = [row["host"] for row in self._rows("SELECT DISTINCT host FROM clocks WHERE high - low > 1e9 ORDER BY host")]
        if clocks:  # hosts and attempts cannot be put on one scale of time
            counted |= {"system_fps": None, "device_busy": None}
        checksums = all(device.startswith(CHECKSUMS) for device in devices)  # which say nothing of labels
        checks, failed_checks = counted_checks(attempts)
        names, numbered = (manifest.class_names, NUMBERS in manifest.labels_from) if manifest else ([], True)
        versions = "SELECT name, string_agg(value, ', ' ORDER BY value) AS all FROM facts WHERE kind = 'version' GROUP BY name"
        ran = {row["name"]: row["all"] for row in self._rows(versions)}  # beats what the manifest says
        return Summary(
            **{name: value for name, value in counted.items() if name in Summary.__dataclass_fields__},
            job=manifest.job if manifest else None,
            model=manifest.model if manifest else None,
            model_digest=manifest.model_digest if manifest else None,
            **{told: sum(attempt.get(told, 0) for attempt in attempts) for told in TOLD},
            **{wait: sum(self.tables["meshes"][wait].to_pylist()) for wait in (f"wait_{reason}_seconds" for reason in WAITS)},
            **self.job_time(counted["images"]),
            run_id=facts(self._counts, "run")[0],
            data=shown(manifest.data) if manifest else None,
            planned=manifest.images if manifest else None,
            labels_from=(manifest.labels_from if manifest else None) or None,
            label_doubt=None if checksums else doubt(self._counts["answers"], names, numbered),
            left_out=sum(manifest.left_out.values()) if manifest else 0,
            left_out_kinds=[f"{count:,} {kind}" for kind, count in manifest.left_out.items()] if manifest else [],
            corrupted_top1=self._corrupted(),
            clocks_set=clocks,
            killed_attempts=len(self._killed),
            checks=checks,
            failed_checks=failed_checks,
            lost_hosts=[host for attempt in attempts for host in attempt.get("lost_hosts", [])],
            meshes=max(Counter(self.tables["meshes"]["attempt"].to_pylist()).values(), default=0),
            devices=devices,
            simulated=any(device.startswith("simulated") for device in devices),
            batch_size=int(batch_sizes[0]) if len(batch_sizes) == 1 else None,
            config=json.dumps(manifest.settings if manifest else {}, sort_keys=True),
            versions=json.dumps({**(manifest.versions if manifest else {}), **ran}, sort_keys=True),
        )

    def row(self, summary: Summary) -> pa.Table:
        """The summary as the table it is written as."""
        return self._database.sql("SELECT unnest($1)", params=[asdict(summary)]).to_arrow_table().cast(schema_of(Summary))

    def pictures(self) -> list[dict[str, Any]]:
        """The surest mistakes, of all and of the most confused pairs; the least sure answers; samples of classes; by place."""
        return self._rows(PICTURES)

    def unread(self) -> list[dict[str, str]]:
        """The first images without an answer: `image_id` and `error`."""
        return self._rows("SELECT unnest(kept) FROM (FROM unread ORDER BY kept)")

    def _rows(self, query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._database.sql(query).to_arrow_table().to_pylist()
        return rows

    def _corrupted(self) -> float | None:
        """Mean corruption accuracy: over corruptions, of the mean over each one's severities; None without corrupted images."""
        accuracies = defaultdict(list)
        for row in self.tables["corruptions"].to_pylist():
            accuracies[row["corruption"]].append(row["accuracy"])
        return fmean(map(fmean, accuracies.values())) if accuracies else None

    def job_time(self, images: int) -> dict[str, Any]:
        """Seconds of the whole command by phase, summed over attempts, and its rate; Nones where an attempt told none."""
        measured = [attempt["seconds"] for attempt in self._attempts if "seconds" in attempt]
        phases = {phase: sum(seconds.get(phase, 0.0) for seconds in measured) for phase in PHASES}
        total = sum(phases.values())
        if not total or len(measured) < len(self._attempts):  # images of an untimed attempt over the others' time: too fast
            return dict.fromkeys([*(f"{phase}_seconds" for phase in PHASES), "job_seconds", "job_fps"])
        return {f"{phase}_seconds": took for phase, took in phases.items()} | {"job_seconds": total, "job_fps": images / total}
