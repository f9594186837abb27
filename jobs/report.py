"""Accuracy, throughput and errors of a run, computed from its predictions alone; or how the answers of two runs differ.

python -m jobs.report --out s3://bucket/run-1
python -m jobs.report --compare s3://bucket/run-1 s3://bucket/run-2
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.reporting.tables import Reports
from jobs.reporting.terminal_table import summary_table
from jobs.reporting.write import count_run, write_reports
from jobs.running.command import JobFailed, run
from jobs.running.terminal import say
from jobs.storage.address import below

if TYPE_CHECKING:
    from jobs.reporting.comparison.compare import Run


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.compare:
        run_a, run_b = args.compare
        return compare_runs(run_a, run_b, args.out, args.address)
    real = None
    if args.real:
        from jobs.reporting.imagenet_sets import read_real

        real = read_real(args.real)
    summary = write_reports(args.out, address=args.address, real=real)
    print(summary_table(summary))
    say(f"report: {below(args.out, 'report.html')}")
    if summary.planned is not None and summary.images < summary.planned:
        raise JobFailed(f"{summary.images:,} of {summary.planned:,} images have a row; run the job again with --resume")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", metavar="URI", help="a job's --out: make its report again, and print its summary")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("RUN_A", "RUN_B"),
        help="say instead how run B differs from run A; written to --out (default: RUN_B/compared/<run id of A>)",
    )
    parser.add_argument(
        "--real", metavar="URI", help="ReaL's labels (real.json): give the accuracy of ImageNet's validation images by these too"
    )
    parser.add_argument("--address", help="Ray cluster to count a large run on (default: RAY_ADDRESS, else this machine)")
    args = parser.parse_args(arguments)
    if args.real and args.compare:
        parser.error("--real goes with --out")
    if not (args.out or args.compare):
        parser.error("give --out RUN to report on a run, or --compare RUN_A RUN_B")
    return args


def compare_runs(run_a: str, run_b: str, out: str | None, address: str | None = None) -> int:
    """Compare two runs, and print how they differ."""
    from jobs.reporting.comparison.compare import compare, comparison_table

    a, b = read_run(run_a, address), read_run(run_b, address)
    out = out or below(run_b, f"compared/{a.summary.run_id}")
    print(comparison_table(compare(a, b, out)))
    say(f"report: {below(out, 'comparison.html')}")
    return 0


def read_run(out: str, address: str | None = None) -> Run:
    """One run of a comparison; raises UserError as write_reports does."""
    from jobs.reporting.comparison.compare import Run

    counts, manifest = count_run(out, address=address)
    return Run(out, Reports(counts, manifest).summary(), manifest)


if __name__ == "__main__":
    run(main)
