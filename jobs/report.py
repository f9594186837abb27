"""Accuracy, throughput and errors of a run, computed from its predictions alone; or how the answers of two runs differ.

python -m jobs.report --out s3://bucket/run-1
python -m jobs.report --compare s3://bucket/run-1 s3://bucket/run-2
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.clearing import refuse_foreign_page
from jobs.command import JobFailed, run
from jobs.manifest import Manifest, load_manifest
from jobs.metrics import Counts
from jobs.phases import PHASES, Phases
from jobs.pipeline.storage import open_storage, shown, storage_errors, write_atomically, write_table
from jobs.reduction import reduce_predictions
from jobs.report_schema import Summary
from jobs.report_tables import report_tables, summarise, summary_row
from jobs.terminal import one_line
from vit_actor.errors import UserError

if TYPE_CHECKING:
    from jobs.comparison.compare import Run

PICTURED = 12  # most confused pairs with a picture


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.compare:
        run_a, run_b = args.compare
        return compare_runs(run_a, run_b, args.out, args.address)
    summary = write_reports(args.out, address=args.address)
    print(summary_table(summary))
    print(f"report: {shown(args.out).rstrip('/')}/report.html")
    if summary.planned is not None and summary.images < summary.planned:
        raise JobFailed(f"{summary.images:,} of {summary.planned:,} images have a row; run the job again with --resume")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", metavar="URI", help="what a job wrote to: its report is made again, and its summary printed")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("RUN_A", "RUN_B"),
        help="instead: how run B differs from run A; into --out (default: RUN_B/compared/<run id of A>)",
    )
    parser.add_argument("--address", help="Ray cluster to count a large run on (default: RAY_ADDRESS, else this machine)")
    args = parser.parse_args(arguments)
    if not (args.out or args.compare):
        parser.error("give --out RUN to report on a run, or --compare RUN_A RUN_B")
    return args


def compare_runs(run_a: str, run_b: str, out: str | None, address: str | None = None) -> int:
    """Compare two runs, and print how they differ."""
    from jobs.comparison.compare import compare, comparison_table

    a, b = read_run(run_a, address), read_run(run_b, address)
    out = out or f"{run_b.rstrip('/')}/compared/{a.summary.run_id}"
    print(comparison_table(compare(a, b, out)))
    print(f"report: {shown(out).rstrip('/')}/comparison.html")
    return 0


def read_run(out: str, address: str | None = None) -> Run:
    """One run of a comparison; raises UserError as write_reports does."""
    from jobs.comparison.compare import Run

    counts, manifest = count_run(out, address=address)
    return Run(out, summarise(counts, manifest), manifest)


def write_reports(out: str, phases: Phases | None = None, *, address: str | None = None, compact: str | None = None) -> Summary:
    """Write `<out>/report/`, each table as Parquet, and `<out>/report.html`; returns the summary.

    Reads the predictions once, in bounded memory. Equal predictions give equal bytes, in whatever files and order; the page
    also shows a few images where the data set can be read.
    phases: of the command whose end this is, to be closed and written down with the run's latest attempt.
    address, compact: as `reduce_predictions` takes them.
    Raises UserError without predictions, with damaged ones, or with those of two runs.
    """
    refuse_foreign_page(out)
    counts, manifest = count_run(out, address=address, compact=compact)
    from jobs.report_page.page import draw, page  # brings matplotlib, which a mistake needs not wait for
    from jobs.report_page.thumbnails import thumbnails

    summary = summarise(counts, manifest)
    tables = report_tables(counts, summary, manifest)
    most_confused = sorted(counts.examples, key=lambda pair: (-counts.confusion[pair], pair))[:PICTURED]
    pictures = thumbnails(manifest, [counts.examples[pair] for pair in most_confused])
    drawn = draw(summary, tables, pictures)
    if phases and manifest:
        phases.end("report")
        manifest.note(out, {"seconds": phases.seconds})
        summary = summarise(counts, manifest)
        tables["summary"] = summary_row(summary)
    filesystem, path = open_storage(out)
    with storage_errors(out):
        for name, table in tables.items():
            write_table(filesystem, f"{path}/report/{name}.parquet", table)
        write_atomically(filesystem, f"{path}/report.html", page(summary, tables, drawn).encode())
    return summary


def count_run(out: str, *, address: str | None = None, compact: str | None = None) -> tuple[Counts, Manifest | None]:
    """What a run's predictions add up to, and its manifest where it has one; raises UserError as write_reports does."""
    manifest = load_manifest(out)
    counts = reduce_predictions(out, address=address, compact=compact)
    runs = sorted(counts.run_ids | ({manifest.run_id} if manifest else set()))
    if not counts.images:
        raise UserError(f"{shown(out)}: no predictions there; check the path, or run a job with this --out first")
    if len(runs) > 1:
        raise UserError(f"{shown(out)}: holds predictions of several runs ({', '.join(runs)}); give each run an --out of its own")
    return counts, manifest


def summary_table(summary: Summary) -> str:
    """The summary for a terminal: at most ten aligned lines."""
    planned = f" of {summary.planned:,}" if summary.planned is not None else ""
    lines = [("images", f"{summary.images:,}{planned}, {summary.errors:,} with an error")]
    if summary.labels_from:
        found = f"{summary.labelled:,} of {summary.images:,}, from " if summary.labelled else ""
        lines.append(("labels", f"{found}{summary.labels_from}"))
    if summary.top1 is not None:
        lines.append(("top-1", _percent(summary.top1, summary.top1_low, summary.top1_high)))
        lines.append(("top-5", _percent(summary.top5, summary.top5_low, summary.top5_high)))
    if summary.inference_ms is not None:
        batch = f"a batch of {summary.batch_size}" if summary.batch_size else "a full batch"
        spread = (
            f"p50 {summary.inference_p50_ms:,.2f}, p99 {summary.inference_p99_ms:,.2f}; {summary.full_batches:,} full batches"
        )
        lines.append(("inference", f"{summary.inference_ms:,.2f} ms {batch} ({spread})"))
    if summary.system_fps is not None:
        lines.append(
            ("FPS", f"{summary.system_fps:,.1f} the whole system, first batch to last in {summary.active_seconds:,.1f} s")
        )
        lines.append(("", f"{summary.device_fps:,.1f} one device alone, of {summary.meshes} ({summary.device_busy:.0%} busy)"))
    if summary.compile_seconds is not None:
        built = f" ({summary.kernels_built:,} kernels built: a cold start)" if summary.kernels_built else ""
        lines.append(("compile", f"{summary.compile_seconds:,.2f} s{built}"))
    if summary.job_seconds is not None:
        parts = ", ".join(f"{phase} {summary.phase_seconds(phase):,.1f}" for phase in PHASES)
        lines.append(
            ("job", f"{summary.job_seconds:,.1f} s, {summary.job_fps or 0:,.1f} images/s from start to reports ({parts})")
        )
    if summary.cached:
        lines.append(("cache", f"{summary.cached:,} of {summary.images:,} images were read from it, not decoded"))
    if faults := summary.faults:
        lines.append(("faults", faults))
    others = f" (and {len(summary.devices) - 1} other kinds)" if len(summary.devices) > 1 else ""
    lines += [("device", device + others) for device in summary.devices[:1]]
    return "\n".join(one_line(f"{name:<11}{text}") for name, text in lines)


def _percent(share: float | None, low: float | None, high: float | None) -> str:
    return f"{share:.2%}  (95% interval {low:.2%} to {high:.2%})"


if __name__ == "__main__":
    run(main)
