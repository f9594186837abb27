"""A run's reports: Parquet tables and one page, from its predictions alone."""

from dataclasses import replace

import pyarrow as pa

from jobs.reporting.counts import facts
from jobs.reporting.imagenet_sets import IMAGENET_CLASSES, Real
from jobs.reporting.reduction import reduce_predictions
from jobs.reporting.schema import Summary
from jobs.reporting.tables import Reports
from jobs.running.clearing import refuse_foreign_page
from jobs.running.manifest import load_manifest
from jobs.running.phases import Phases
from jobs.storage.address import shown
from jobs.storage.failure import storage_errors
from jobs.storage.files import open_storage, write_atomically, write_table
from vit_actor.errors import UserError


def write_reports(
    out: str,
    phases: Phases | None = None,
    *,
    address: str | None = None,
    compact: str | None = None,
    real: Real | None = None,
    data: str | None = None,
) -> Summary:
    """Write `<out>/report/`, each table as Parquet, and `<out>/report.html`; returns the summary.

    Reads the predictions once, in bounded memory. Equal predictions give equal bytes, in any files and order; the page
    also shows a few images where the data set can be read.
    phases: the command's. The last of them, `report`, ends here, and their seconds go into the run's latest attempt.
    address, compact: as `reduce_predictions` takes them. real: ReaL's labels, to count accuracy by them too.
    data: where the images are (default: what the manifest says, which leaves out credentials).
    Raises UserError without predictions, with damaged ones, or with those of two runs.
    """
    refuse_foreign_page(out)
    reports = count_run(out, address=address, compact=compact, real=real)
    summary = reports.summary()
    if real is not None and not summary.real_images:
        named = "they must be named ILSVRC2012_val_<number>, in folders or tars"
        raise UserError(f"{shown(out)}: none of its images is one of ReaL's; {named}")
    from jobs.reporting.page.markup import render  # imports what a mistake need not wait for
    from jobs.reporting.page.page import RUN, draw

    drawn = draw(reports, summary, data)
    if phases and reports.manifest:
        phases.end("report")
        reports.manifest.note(out, {"seconds": phases.seconds})
        summary = replace(summary, **reports.job_time(summary.images))
    publish(out, {"summary": reports.row(summary), **reports.tables}, render(RUN, s=summary, **drawn))
    return summary


def publish(out: str, tables: dict[str, pa.Table], page: str) -> None:
    """Write each table as `<out>/report/<name>.parquet`, and the page as `<out>/report.html`. Raises StorageError."""
    filesystem, path = open_storage(out)
    with storage_errors(out):
        for name, table in tables.items():
            write_table(filesystem, f"{path}/report/{name}.parquet", table)
        write_atomically(filesystem, f"{path}/report.html", page.encode())


def count_run(out: str, *, address: str | None = None, compact: str | None = None, real: Real | None = None) -> Reports:
    """The tables of a run, from its predictions and its manifest where it has one; raises UserError as write_reports does."""
    manifest = load_manifest(out)
    if real is not None and manifest and len(manifest.class_names) != IMAGENET_CLASSES:
        raise UserError(f"{shown(out)}: ReaL's labels are of ImageNet-1k's classes, and its checkpoint has other ones")
    counts = reduce_predictions(out, address=address, compact=compact, real=real)
    if not counts or not len(counts["answers"]):
        raise UserError(f"{shown(out)}: no predictions there; check the path, or run a job with this --out first")
    runs = sorted({*facts(counts, "run"), *([manifest.run_id] if manifest else [])})
    if len(runs) > 1:
        raise UserError(f"{shown(out)}: holds predictions of several runs ({', '.join(runs)}); give each run an --out of its own")
    return Reports(counts, manifest)
