"""Classify a labelled image set on every mesh of the cluster: accuracy, per-sample predictions, inference time, FPS.

python -m jobs.imagenet --data hf://datasets/ILSVRC/imagenet-1k --out s3://bucket/run-1 --device t3000
"""

from __future__ import annotations

import argparse
import sys

from jobs.pipeline.commit import committed_files, committed_rows
from jobs.running.arguments import (
    add_device_arguments,
    add_out_arguments,
    check_arguments,
    positive,
    seconds,
    share_or_count,
    size,
)
from jobs.running.classification import Classification
from jobs.running.command import TOO_MANY_ERRORS, JobFailed, run
from jobs.running.output_lock import check_held
from jobs.running.permissions import may_delete
from jobs.running.phases import Phases
from jobs.running.progress import telling
from jobs.running.session import ray_session
from jobs.running.terminal import say
from jobs.storage.address import below, shown
from vit_actor.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    phases = Phases()
    args = parse(arguments)
    with telling("looking through the data, the model and the output"):
        job = Classification.open(args)  # what can be told without Ray is told before it starts, which takes seconds
    if job.is_done():
        return verdict(args, *job.manifest.counted or counted(args.out))
    with ray_session(args.address, needed=("ray.data", "pandas")):
        from jobs.running.attempt import classify_what_is_left

        stopped = classify_what_is_left(job, phases)  # list -> read -> decode -> classify -> commit
    phases.end("end")
    if stopped is not None:
        say(f"stopped; what is committed stays: add --resume to go on with {args.out}", sys.stderr)
        return stopped
    return report(job, phases)


def report(job: Classification, phases: Phases) -> int:
    """Reports from what is committed, then the verdict as an exit code."""
    from jobs.reporting.terminal_table import summary_table
    from jobs.reporting.write import write_reports

    out, manifest = job.args.out, job.manifest
    try:
        compact = manifest.run_id if may_delete(out) else None
        if compact is None:
            say(f"{shown(out)}: deleting is refused, so predictions stay one file a chunk; grant it to merge them", sys.stderr)
        summary = write_reports(out, phases, address=job.args.address, compact=compact, data=job.args.data)
        manifest.files, rows = committed_files(out), committed_rows(out)
        check_held(out)
    except UserError as error:  # the images are classified: what failed is no mistake of the command's
        raise JobFailed(f"{error}; what is committed stays: add --resume to make the report") from None
    manifest.attempts[-1]["seconds"] = phases.seconds
    for found in (summary.images, rows):  # counted for the report, and there at its end
        if None not in (found, manifest.images) and found != manifest.images:
            manifest.end_attempt(out, "incomplete")
            raise JobFailed(f"{found} of {manifest.images} images have a row in {out}; add --resume to go on")
    manifest.counted = [summary.images, summary.errors]
    manifest.end_attempt(out, "finished")
    print(summary_table(summary))
    say(f"report: {below(out, 'report.html')}")
    return verdict(job.args, summary.images, summary.errors)


def verdict(args: argparse.Namespace, images: int, errors: int) -> int:
    """The exit code of a finished run, whether it has just finished or is asked again."""
    most = args.max_errors
    allowed = most if isinstance(most, int) else int(most * images)
    if errors > allowed:
        say(f"error: {errors} images could not be read, more than --max-errors allows ({allowed})", sys.stderr)
        return TOO_MANY_ERRORS
    return 0


def counted(out: str) -> tuple[int, int]:
    """(images, errors) of a run that an earlier version finished: its manifest does not tell them."""
    from jobs.reporting.write import write_reports

    summary = write_reports(out)
    return summary.images, summary.errors


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.imagenet", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--data", required=True, help="folder, Parquet or WebDataset shards, local or any URI; hf://datasets/ILSVRC/imagenet-1k")
    add_out_arguments(parser)
    add("--labels", help="where labels are (a file, a column), how to read them (by-name, by-number, by-order), or none")
    add("--limit", type=positive, metavar="N", help="only the first N images")
    add("--exif", choices=("ignore", "upright"), default="ignore", help="turn images as their EXIF says (default: %(default)s)")
    add(
        "--cache",
        metavar="URI",
        help="keep decoded images there for later runs (150 KB each at 224 x 224)",
    )
    add("--cache-limit", type=size, metavar="SIZE", help="bytes the cache may hold, such as 50GB (default: all the disk has)")
    add_device_arguments(parser)
    add("--streams", type=positive, metavar="N", help="processes that hand out work, at most one a mesh (default: as needed)")
    add("--device-limit", type=seconds, default=120, metavar="S", help="seconds without an answer until a device counts as hung")
    add("--max-errors", type=share_or_count, default="1%", metavar="N|N%", help="unreadable images allowed (default: 1%%)")
    add("--resume", action="store_true", help="continue the run in --out")
    args = parser.parse_args(arguments)
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if args.cache_limit and args.cache is None:
        parser.error("--cache-limit goes with --cache")
    check_arguments(parser, args)
    return args


if __name__ == "__main__":
    run(main)
