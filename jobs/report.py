"""Accuracy, throughput and errors of a run, computed from its predictions alone; or how the answers of two runs differ.

python -m jobs.report --out s3://bucket/run-1
python -m jobs.report --compare s3://bucket/run-1 s3://bucket/run-2
"""

# PYTHON_ARGCOMPLETE_OK
import argparse
import sys

from jobs.reporting.imagenet_sets import read_real
from jobs.reporting.outcome import gates, judged, wrong_count
from jobs.reporting.terminal_table import summary_table
from jobs.reporting.write import write_reports
from jobs.running.command import JobFailed, Parser, add_setting, run
from jobs.running.manifest import load_manifest
from jobs.running.terminal import say
from jobs.settings import ImagenetSettings
from jobs.storage.address import below


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.compare:
        from jobs.reporting.comparison.compare import compare, comparison_table

        run_a, run_b = args.compare
        comparison, page = compare(run_a, run_b, args.out, args.address)
        print(comparison_table(comparison))
        say(f"report: {page}")
        return 0
    least = gates(" ".join(args.min_top1), " ".join(args.min_top5))
    summary = write_reports(args.out, address=args.address, real=None if args.real is None else read_real(args.real))
    print(summary_table(summary))
    say(f"report: {below(args.out, 'report.html')}")
    if summary.planned is not None and (wrong := wrong_count(summary.images, summary.planned)):
        raise JobFailed(wrong)
    manifest = load_manifest(args.out)
    code, told = judged(summary, least, manifest.chosen.get("max_errors", 1.0) if manifest else 1.0)
    for line in told:
        say(f"error: {line}", sys.stderr)
    return code


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser("jobs.report", __doc__, "--out RUN [options] | --compare RUN_A RUN_B [options]")
    add = parser.add_argument
    add("--out", metavar="URI", help="a job's --out: make its report again, and print its summary")
    told = "say instead how run B differs from run A; written to --out (default: RUN_B/compared/<run id of A>)"
    add("--compare", nargs=2, metavar=("RUN_A", "RUN_B"), help=told)
    add("--real", metavar="URI", help="ReaL's labels (real.json): give the accuracy of ImageNet's validation images by these too")
    for name in ("min_top1", "min_top5"):
        add_setting(parser, name, *ImagenetSettings.options()[name])
    add("--address", metavar="HOST:PORT", help="Ray cluster to count a large run on (default: RAY_ADDRESS, else this machine)")
    parser.set_defaults(min_top1=(), min_top5=())
    args = parser.parsed(arguments)
    if args.compare and (args.real or args.min_top1 or args.min_top5):
        parser.error("--real, --min-top1 and --min-top5 go with --out alone, not with --compare")
    if not (args.out or args.compare):
        parser.error("give --out RUN to report on a run, or --compare RUN_A RUN_B")
    return args


if __name__ == "__main__":
    run(main)
