"""Whether a second run of the same images answers otherwise than a first, by how much, and on which images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory

import pyarrow as pa

from jobs.reporting.columns import schema_of
from jobs.reporting.comparison.growing import Growing
from jobs.reporting.comparison.page import page
from jobs.reporting.comparison.pairing import paired
from jobs.reporting.comparison.tables import (
    FLIPS,
    ONLY_IN_ONE,
    Comparison,
    Tally,
    compared,
    differing_settings,
    flips_per_class,
)
from jobs.reporting.schema import Summary
from jobs.running.manifest import Manifest
from jobs.storage import open_storage, shown, storage_errors, write_atomically, write_table
from vit_actor.errors import UserError


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

    In memory are classes and names of files, never rows. Raises UserError for runs without a common image, and for runs
    whose class numbers do not mean the same.
    """
    names = a.class_names or b.class_names
    if a.class_names and b.class_names and a.class_names != b.class_names:
        raise UserError(f"{shown(a.out)} and {shown(b.out)} answer with other classes; compare runs of checkpoints with the same")

    def name(index: int | None) -> str | None:
        return None if index is None else names[index] if index < len(names) else str(index)

    filesystem, path = open_storage(out)
    tally = Tally()
    with TemporaryDirectory() as directory:
        with Growing(f"{directory}/flips", FLIPS) as flips, Growing(f"{directory}/only_in_one", ONLY_IN_ONE) as only:
            for rows_a, rows_b in paired(a.out, b.out):
                if rows_a.num_rows and rows_b.num_rows:
                    flips.add(tally.add(rows_a, rows_b, name))
                else:
                    tally.only_a += rows_a.num_rows
                    tally.only_b += rows_b.num_rows
                    for which, rows in (("A", rows_a), ("B", rows_b)):
                        columns = [rows["image_id"], pa.repeat(which, rows.num_rows), rows["label"], rows["prediction"]]
                        only.add(pa.table(columns, schema=ONLY_IN_ONE))
        if not tally.images:
            raise UserError(f"{shown(a.out)} and {shown(b.out)} have no image in common; give two runs of the same data set")
        comparison = compared(a.summary, b.summary, tally)
        tables = {
            "comparison": pa.Table.from_pylist([asdict(comparison)], schema=schema_of(Comparison)),
            "flips_per_class": flips_per_class(tally, name),
            "settings": differing_settings(a.summary, b.summary),
        }
        with storage_errors(out):
            for growing in ("flips", "only_in_one"):
                with pa.memory_map(f"{directory}/{growing}") as file:
                    write_atomically(filesystem, f"{path}/{growing}.parquet", file.read_buffer())
            for table in tables:
                write_table(filesystem, f"{path}/{table}.parquet", tables[table])
            html = page(comparison, (shown(a.out), shown(b.out)), tables | {"flips": flips.first, "only_in_one": only.first})
            write_atomically(filesystem, f"{path}/comparison.html", html.encode())
    return comparison


def comparison_table(c: Comparison) -> str:
    """The comparison for a terminal: a few aligned lines, the verdict last."""
    lines = [("answers", f"{c.agreement:.3%} agree; {c.flips:,} of {c.images:,} differ")]
    if c.top1_a is not None and c.top1_b is not None:
        lines.append(("top-1", f"{c.top1_a:.3%} -> {c.top1_b:.3%} over {c.labelled:,} labelled images"))
        lines.append(
            ("flips", f"{c.lost:,} right to wrong, {c.gained:,} wrong to right, {c.still_wrong:,} wrong to another wrong")
        )
    for what, unit, was, became, ratio in (
        ("FPS", "the whole system", c.system_fps_a, c.system_fps_b, c.system_fps_ratio),
        ("", "one device alone", c.device_fps_a, c.device_fps_b, c.device_fps_ratio),
        ("inference", "ms a batch", c.inference_ms_a, c.inference_ms_b, c.inference_ratio),
    ):
        if was and became:
            lines.append((what, f"{was:,.2f} -> {became:,.2f} {unit}" + (f", {ratio:.3f} times" if ratio else "")))
    if simulated := [run for run, was in (("A", c.simulated_a), ("B", c.simulated_b)) if was]:
        runs = " and ".join(simulated)
        said = f"run {runs}: times say nothing about hardware, answers only where ttsim ran the kernels"
        lines.append(("simulated", said))
    if c.relabelled:
        lines.append(("relabelled", f"{c.relabelled:,} images, left out of the accuracy"))
    return "\n".join([*(f"{name:<12}{text}" for name, text in lines), c.verdict])
