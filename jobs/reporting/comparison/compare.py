"""Whether a second run of the same images answers otherwise than a first, by how much, and on which images."""

from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.reporting.columns import schema_of
from jobs.reporting.comparison.pairs import paired
from jobs.reporting.comparison.tables import FROM_PAIRS, TOTALS, Comparison, differing_settings, p_text, points
from jobs.reporting.intervals import difference_interval, mcnemar
from jobs.reporting.page.markup import render
from jobs.reporting.schema import Summary
from jobs.reporting.tables import NAMED
from jobs.reporting.write import count_run
from jobs.running.words import counted
from jobs.storage.address import below, shown
from jobs.storage.failure import storage_errors
from jobs.storage.files import open_storage, write_atomically, write_table
from vit_actor.errors import UserError

ROW_GROUP = 100_000  # Rows of a table that are in memory at once
SHOWN = 200  # Rows of a long table that the page shows
LISTED_CLASSES = 2000  # Classes that the page lists; flips_per_class.parquet has all


def compare(run_a: str, run_b: str, out: str | None = None, address: str | None = None) -> tuple[Comparison, str]:
    """Write comparison.parquet, flips.parquet, flips_per_class.parquet, only_in_one.parquet, settings.parquet and comparison.html
    to `out` (default: run B's `compared/<run id of A>`); returns the comparison, and where its page is.

    address: as `reduce_predictions` takes it. Rows that do not fit in a bounded memory wait on local disk. Raises UserError as
    write_reports does, for runs without a common image, and for runs whose class numbers do not mean the same.
    """
    reports = [count_run(run, address=address) for run in (run_a, run_b)]
    names = [each.manifest.class_names for each in reports if each.manifest and each.manifest.class_names]
    if len(names) == 2 and names[0] != names[1]:
        raise UserError(f"{shown(run_a)} and {shown(run_b)} answer with other classes; compare runs of checkpoints with the same")
    a, b = (each.summary() for each in reports)
    out = out or below(run_b, f"compared/{a.run_id}")
    with TemporaryDirectory() as directory, paired(run_a, run_b, directory) as database:
        database.execute("SET VARIABLE names = ?::VARCHAR[]", [names[0] if names else []])
        database.execute(NAMED)
        totals = database.sql(TOTALS).to_arrow_table().to_pylist()[0]
        if not totals["images"]:
            raise UserError(f"{shown(run_a)} and {shown(run_b)} have no image in common; give two runs of the same data set")
        comparison = _compared(a, b, totals)
        settings = differing_settings(a, b)
        rows = {"settings": settings.to_pylist(), "flips_per_class": FROM_PAIRS["flips_per_class"].table(database).to_pylist()}
        for name in ("flips", "only_in_one"):
            rows[name] = database.sql(f"{FROM_PAIRS[name].sql} LIMIT {SHOWN}").to_arrow_table().to_pylist()
        runs = [("A", shown(run_a), a), ("B", shown(run_b), b)]
        html = _page(comparison, rows, [(n, f"{run}, run {s.run_id}, on {'; '.join(s.devices[:8])}") for n, run, s in runs])
        filesystem, path = open_storage(out)
        with storage_errors(out):
            for name, query in FROM_PAIRS.items():
                file = f"{directory}/{name}"
                with pq.ParquetWriter(file, query.schema, compression="zstd") as writer:
                    for batch in database.sql(query.sql).to_arrow_reader(ROW_GROUP):
                        writer.write_table(pa.Table.from_batches([batch]).cast(query.schema))
                with pa.memory_map(file) as written:
                    write_atomically(filesystem, f"{path}/{name}.parquet", written.read_buffer())
            row = pa.Table.from_pylist([asdict(comparison)], schema=schema_of(Comparison))
            write_table(filesystem, f"{path}/comparison.parquet", row)
            write_table(filesystem, f"{path}/settings.parquet", settings)
            write_atomically(filesystem, f"{path}/comparison.html", html.encode())
    return comparison, below(out, "comparison.html")


def _compared(a: Summary, b: Summary, totals: dict[str, Any]) -> Comparison:
    """The comparison's one row, from what each run adds up to and from their pairs, of which there must be some."""
    labelled, lost, gained = (totals[name] for name in ("labelled", "lost", "gained"))
    low, high = difference_interval(lost, gained, labelled) if labelled else (None, None)
    of_both: dict[str, Any] = {}
    for name in ("simulated", "devices", "system_fps", "device_fps", "inference_ms"):
        of_both |= {f"{name}_a": getattr(a, name), f"{name}_b": getattr(b, name)}
    return Comparison(
        run_a=a.run_id,
        run_b=b.run_id,
        **totals,
        agreement=1 - totals["flips"] / totals["images"],
        top1_a=totals["correct_a"] / labelled if labelled else None,
        top1_b=totals["correct_b"] / labelled if labelled else None,
        difference=(totals["correct_b"] - totals["correct_a"]) / labelled if labelled else None,
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


def _page(c: Comparison, rows: dict[str, list[dict[str, Any]]], facts: list[tuple[str, str]]) -> str:
    classes = rows["flips_per_class"]
    changed = [row for row in classes if row["lost"] or row["gained"] or row["still_wrong"]]
    changed.sort(key=lambda row: (-row["lost"] - row["gained"] - row["still_wrong"], row["class"]))
    return render(
        "comparison.html",
        title=c.verdict[0].upper() + c.verdict[1:],
        facts=facts,
        c=c,
        t=rows | {"flips_per_class": changed[:LISTED_CLASSES]},
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
