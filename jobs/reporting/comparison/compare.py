"""Whether a second run of the same images answers otherwise than a first, by how much, and on which images."""

from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.reporting.columns import schema_of
from jobs.reporting.comparison.pairs import GAINED, LOST, STILL_WRONG, paired
from jobs.reporting.comparison.tables import FLIPS, FLIPS_PER_CLASS, ONLY_IN_ONE, Comparison, differing_settings, p_text, points
from jobs.reporting.intervals import difference_interval, mcnemar
from jobs.reporting.page.markup import render
from jobs.reporting.schema import Summary
from jobs.reporting.tables import NAMED
from jobs.running.manifest import Manifest
from jobs.running.words import counted
from jobs.storage.address import shown
from jobs.storage.failure import storage_errors
from jobs.storage.files import open_storage, write_atomically, write_table
from vit_actor.errors import UserError

ROW_GROUP = 100_000  # Rows of the long tables that are in memory at once
SHOWN = 200  # Rows of the long tables that the page shows
LISTED_CLASSES = 2000  # Classes that the page lists; flips_per_class.parquet has all

LONG_TABLES = {
    "flips": (
        FLIPS,
        """SELECT image_id, label, named(label) AS label_name, prediction_a, named(prediction_a) AS name_a, probability_a,
          error_a, prediction_b, named(prediction_b) AS name_b, probability_b, error_b, kind
        FROM pairs WHERE flipped ORDER BY row_a""",
    ),
    "only_in_one": (
        ONLY_IN_ONE,
        """SELECT image_id, run, label, named(label) AS label_name, prediction, named(prediction) AS predicted_name
        FROM only_in_one ORDER BY run, row""",
    ),
}

PER_CLASS = f"""
SELECT label AS class, named(label) AS name, count(*) AS images, count(*) FILTER (right_a) AS correct_a,
  count(*) FILTER (right_b) AS correct_b, count(*) FILTER (kind = '{LOST}') AS lost,
  count(*) FILTER (kind = '{GAINED}') AS gained, count(*) FILTER (kind = '{STILL_WRONG}') AS still_wrong
FROM pairs WHERE label IS NOT NULL GROUP BY label ORDER BY label
"""

TOTALS = """
SELECT count(*) AS images, count(*) FILTER (flipped) AS flips, count(*) FILTER (relabelled) AS relabelled,
  count(*) FILTER (prediction_a IS NULL) AS errors_a, count(*) FILTER (prediction_b IS NULL) AS errors_b,
  (SELECT count(*) FROM only_in_one WHERE run = 'A') AS only_a, (SELECT count(*) FROM only_in_one WHERE run = 'B') AS only_b
FROM pairs
"""


@dataclass(frozen=True)
class Run:
    """One of the two: where it is, what it adds up to."""

    out: str
    summary: Summary
    manifest: Manifest | None

    @property
    def class_names(self) -> list[str]:
        """Its checkpoint's; empty where none were recorded."""
        return self.manifest.class_names if self.manifest else []


def compare(a: Run, b: Run, out: str) -> Comparison:
    """Write comparison.parquet, flips.parquet, flips_per_class.parquet, only_in_one.parquet, settings.parquet and comparison.html
    to `out`.

    Rows that do not fit in a bounded memory wait on local disk. Raises UserError for runs without a common image, and for runs
    whose class numbers do not mean the same.
    """
    if a.class_names and b.class_names and a.class_names != b.class_names:
        raise UserError(f"{shown(a.out)} and {shown(b.out)} answer with other classes; compare runs of checkpoints with the same")
    with TemporaryDirectory() as directory, paired(a.out, b.out, directory) as database:
        database.execute("SET VARIABLE names = ?::VARCHAR[]", [a.class_names or b.class_names])
        database.execute(NAMED)
        totals = database.sql(TOTALS).to_arrow_table().to_pylist()[0]
        if not totals["images"]:
            raise UserError(f"{shown(a.out)} and {shown(b.out)} have no image in common; give two runs of the same data set")
        per_class = database.sql(PER_CLASS).to_arrow_table().cast(FLIPS_PER_CLASS)
        totals |= {name: sum(per_class[name].to_pylist()) for name in ("correct_a", "correct_b", "lost", "gained", "still_wrong")}
        comparison = _compared(a.summary, b.summary, totals, labelled=sum(per_class["images"].to_pylist()))
        tables = {
            "comparison": pa.Table.from_pylist([asdict(comparison)], schema=schema_of(Comparison)),
            "flips_per_class": per_class,
            "settings": differing_settings(a.summary, b.summary),
        }
        long = {name: database.sql(f"{query} LIMIT {SHOWN}") for name, (_, query) in LONG_TABLES.items()}
        rows = {name: found.to_arrow_table().to_pylist() for name, found in long.items()}
        html = _page(comparison, a, b, tables, rows)
        filesystem, path = open_storage(out)
        with storage_errors(out):
            for name in LONG_TABLES:
                _write_long(database, name, f"{directory}/{name}")
                with pa.memory_map(f"{directory}/{name}") as file:
                    write_atomically(filesystem, f"{path}/{name}.parquet", file.read_buffer())
            for name, table in tables.items():
                write_table(filesystem, f"{path}/{name}.parquet", table)
            write_atomically(filesystem, f"{path}/comparison.html", html.encode())
    return comparison


def _compared(a: Summary, b: Summary, totals: dict[str, Any], labelled: int) -> Comparison:
    """The comparison's one row, from what each run adds up to and from their pairs, of which there must be some."""
    correct_a, correct_b, lost, gained = (totals[name] for name in ("correct_a", "correct_b", "lost", "gained"))
    low, high = difference_interval(lost, gained, labelled) if labelled else (None, None)
    of_both: dict[str, Any] = {}
    for name in ("simulated", "devices", "system_fps", "device_fps", "inference_ms"):
        of_both |= {f"{name}_a": getattr(a, name), f"{name}_b": getattr(b, name)}
    return Comparison(
        run_a=a.run_id,
        run_b=b.run_id,
        **totals,
        labelled=labelled,
        agreement=1 - totals["flips"] / totals["images"],
        top1_a=correct_a / labelled if labelled else None,
        top1_b=correct_b / labelled if labelled else None,
        difference=(correct_b - correct_a) / labelled if labelled else None,
        difference_low=low,
        difference_high=high,
        p_value=mcnemar(lost, gained) if labelled else None,
        **of_both,
        system_fps_ratio=_ratio(a.system_fps, b.system_fps),
        device_fps_ratio=_ratio(a.device_fps, b.device_fps),
        inference_ratio=_ratio(a.inference_ms, b.inference_ms) if a.batch_size == b.batch_size else None,
    )


def _ratio(a: float | None, b: float | None) -> float | None:
    return b / a if a and b else None


def _write_long(database: duckdb.DuckDBPyConnection, name: str, file: str) -> None:
    """A long table as Parquet on local disk, a part of it in memory at a time."""
    schema, query = LONG_TABLES[name]
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in database.sql(query).to_arrow_reader(ROW_GROUP):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))


def _page(c: Comparison, a: Run, b: Run, tables: dict[str, pa.Table], rows: dict[str, list[dict[str, Any]]]) -> str:
    classes = tables["flips_per_class"].to_pylist()
    changed = [row for row in classes if row["lost"] or row["gained"] or row["still_wrong"]]
    changed.sort(key=lambda row: (-row["lost"] - row["gained"] - row["still_wrong"], row["class"]))
    runs = ("A", a, c.devices_a), ("B", b, c.devices_b)
    return render(
        "comparison.html",
        title=c.verdict[0].upper() + c.verdict[1:],
        facts=[(n, f"{shown(run.out)}, run {run.summary.run_id}, on {'; '.join(devices[:8])}") for n, run, devices in runs],
        c=c,
        t={**rows, "flips_per_class": changed[:LISTED_CLASSES], "settings": tables["settings"].to_pylist()},
        classes=len(classes),
        changed=len(changed),
        points=points,
        p_text=p_text,
    )


def comparison_table(c: Comparison) -> str:
    """The comparison for a terminal: a few aligned lines, the verdict last."""
    lines = [("answers", f"{c.agreement:.3%} agree; {c.flips:,} of {c.images:,} differ")]
    if c.top1_a is not None and c.top1_b is not None:
        lines.append(("top-1", f"{c.top1_a:.3%} -> {c.top1_b:.3%} over {counted(c.labelled, 'labelled image')}"))
        flips = f"{c.lost:,} right to wrong, {c.gained:,} wrong to right, {c.still_wrong:,} wrong to another wrong"
        lines.append(("flips", flips))
    for what, unit, was, became, ratio in (
        ("FPS", "the whole system", c.system_fps_a, c.system_fps_b, c.system_fps_ratio),
        ("", "one device alone", c.device_fps_a, c.device_fps_b, c.device_fps_ratio),
        ("inference", "ms a batch", c.inference_ms_a, c.inference_ms_b, c.inference_ratio),
    ):
        if was and became:
            lines.append((what, f"{was:,.2f} -> {became:,.2f} {unit}" + (f", {ratio:.3f} times" if ratio else "")))
    if c.errors_a or c.errors_b:
        lines.append(("unread", f"{counted(c.errors_a, 'image')} in A, {c.errors_b:,} in B"))
    if simulated := [run for run, was in (("A", c.simulated_a), ("B", c.simulated_b)) if was]:
        said = "no accelerator ran: times say nothing about hardware, nor do answers, unless ttsim ran the real kernels"
        lines.append(("simulated", f"run {' and '.join(simulated)}: {said}"))
    if c.relabelled:
        lines.append(("relabelled", f"{counted(c.relabelled, 'image')}, left out of the accuracy"))
    return "\n".join([*(f"{name:<12}{text}" for name, text in lines), c.verdict])
