"""Classify a labelled image set on every mesh of the cluster: accuracy, per-sample predictions, inference time, FPS.

python -m jobs.imagenet --data hf://datasets/ILSVRC/imagenet-1k --out s3://bucket/run-1 --device t3000
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from jobs.pipeline.commit import committed_files
from jobs.pipeline.sources import Source, Survey, open_source
from jobs.pipeline.sources.listing import HIDDEN
from jobs.running.apart import check_apart
from jobs.running.arguments import (
    add_device_arguments,
    add_out_arguments,
    check_arguments,
    device_request,
    model_directory,
    placement_for,
    positive,
    seconds,
    share_or_count,
    size,
)
from jobs.running.command import TOO_MANY_ERRORS, JobFailed, root_cause, run
from jobs.running.manifest import CHANGED, Manifest, claim, new_run_id, package_versions
from jobs.running.output_lock import hold_output
from jobs.running.phases import Phases
from jobs.running.session import ray_session
from jobs.running.terminal import one_line
from jobs.storage import shown
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.errors import UserError, ended_while_opening
from vit_actor.preprocess import Preprocess


def main(arguments: list[str] | None = None) -> int:
    phases = Phases()
    args = parse(arguments)
    # What can be told without Ray is told before it starts, which takes seconds.
    check_apart({"--data": args.data, "--out": args.out, "--cache": args.cache, "--model": model_directory(args)})
    checkpoint = load_checkpoint(args.model)
    source = open_source(args.data, checkpoint_classes=checkpoint.class_names, labels=args.labels, limit=args.limit)
    survey = source.survey()
    if survey.left_out:
        print(left_out(survey), file=sys.stderr)
    hold_output(args.out)
    manifest = claim(args.out, describe(args, args.device, checkpoint, survey), resume=args.resume, overwrite=args.overwrite)
    if manifest.finished:
        if manifest.files in ([], committed_files(args.out)):
            print(f"run {manifest.run_id} in {args.out} is finished; nothing to do")
            return 0
        print(
            f"run {manifest.run_id} in {args.out} was finished, but predictions are gone or changed: going on with it",
            file=sys.stderr,
        )
    with ray_session(args.address, meanwhile=("pandas", "jobs.reporting.page.page")):
        manifest, stopped = classify_all(args, checkpoint, source, survey, phases)
    phases.end("end")
    if stopped is not None:
        print(f"stopped; what is committed stays: add --resume to go on with {args.out}", file=sys.stderr)
        return stopped
    return report(args, manifest, source, survey, phases)


def classify_all(
    args: argparse.Namespace, checkpoint: Checkpoint, source: Source, survey: Survey, phases: Phases
) -> tuple[Manifest, int | None]:
    """List, read, decode, classify and commit what has no row yet; the run's manifest, and the exit code if it was stopped."""
    from jobs.pipeline.streams import Stream, enough_streams, run_together, shares
    from jobs.running.ledgers import more_ledgers, open_ledger, settle
    from jobs.running.lifeline import watch_ray
    from jobs.running.local_ray import spare_helper_actors
    from jobs.running.progress import Progress
    from jobs.running.stopping import drain_on_signals

    ledger = open_ledger(args.out)  # before any wait for resources, which another job on this output may hold
    placement = placement_for(args, checkpoint)
    wanted = describe(args, placement.device, checkpoint, survey)
    manifest = claim(args.out, wanted, resume=args.resume, overwrite=args.overwrite)
    manifest.begin_attempt(args.out, overwrite=args.overwrite)

    streams = min(args.streams or enough_streams(placement), placement.actors)
    ledgers = [ledger, *more_ledgers(streams - 1)]
    stream = Stream(
        source,
        placement,
        ledger,
        args.out,
        preprocess_for(args, checkpoint),
        open_cache(args, survey, checkpoint, ledgers),
        replace(device_request(args, checkpoint, placement), held=survey.held),
        manifest.identity,
        args.device_limit,
        args.resume,
    )
    spare_helper_actors()
    written = stream.rows() if streams == 1 else run_together(shares(stream, ledgers))

    stopping = drain_on_signals(*ledgers)
    phases.end("start")

    def note_troubles() -> dict[str, Any]:
        """The ledger's account, also written down when it has changed: a driver that is killed leaves what it had counted."""
        account = settle(*ledgers)
        with suppress(UserError):  # where the output fails, the next commit says so
            manifest.note(args.out, account)
        return account

    def ray_is_gone(what: str) -> None:
        with suppress(UserError):
            manifest.end_attempt(args.out, "failed")
        told = f"error: Ray's {what} on this machine or its head has ended; what is committed stays: add --resume to go on"
        print(told, file=sys.stderr, flush=True)

    try:
        with Progress(survey.images, note_troubles) as progress, watch_ray(ray_is_gone):
            for chunk in written:
                progress.add(chunk)
    except KeyboardInterrupt:
        with suppress(UserError):
            manifest.end_attempt(args.out, "stopped")
        return manifest, stopping.code
    except Exception as error:
        account = settle(*ledgers)
        with suppress(UserError):  # where the output is what failed, the manifest cannot say so
            manifest.end_attempt(args.out, "failed", account)
        unopened = ", ".join(account.get("not_open", []))
        cause = f"{unopened}: {ended_while_opening(placement.device)}" if unopened else root_cause(error)
        raise JobFailed(f"{cause}; what is committed stays: add --resume to go on") from error
    stopped, account = stopping.signal is not None, settle(*ledgers)
    phases.end("open", at=account.get("opened_at") or time.time())
    phases.end("stream")
    manifest.end_attempt(args.out, "stopped" if stopped else "classified", account | {"seconds": phases.seconds})
    return manifest, stopping.code if stopped else None


def left_out(survey: Survey) -> str:
    """What lies beside the data and is none: 'left out: 15 files of other types (.txt 9, .xml 6), 2 hidden names'."""
    others = {kind: files for kind, files in survey.left_out.items() if kind != HIDDEN}
    told = []
    if others:
        most = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))
        kinds = ", ".join(f"{kind} {files:,}" for kind, files in most[:5]) + (", ..." if len(most) > 5 else "")
        told.append(f"{sum(others.values()):,} files of other types or splits ({kinds})")
    if hidden := survey.left_out.get(HIDDEN):
        told.append(f"{hidden:,} hidden names (. or _ in front)")
    return one_line(f"left out: {', '.join(told)}")


def preprocess_for(args: argparse.Namespace, checkpoint: Checkpoint) -> Preprocess:
    """The checkpoint's preprocessing, with images turned upright first if that was asked for."""
    return replace(checkpoint.preprocess, upright=args.exif == "upright")


def open_cache(args: argparse.Namespace, survey: Survey, checkpoint: Checkpoint, ledgers: list[Any]) -> Any:
    """The cache of decoded images that was asked for, or None."""
    if args.cache is None:
        return None
    from jobs.pipeline.cache import Cache, stored_bytes

    room = args.cache_limit - stored_bytes(args.cache) if args.cache_limit else math.inf
    for ledger in ledgers:
        ledger.cache_room.remote(room / len(ledgers))
    return Cache.of(args.cache, survey.fingerprint, preprocess_for(args, checkpoint), checkpoint.class_names)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.imagenet", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--data", required=True, help="folder, Parquet or WebDataset shards, local or any URI; hf://datasets/ILSVRC/imagenet-1k")
    add_out_arguments(parser)
    add("--labels", help="file of labels for a flat folder, or the label column of Parquet shards")
    add("--limit", type=positive, metavar="N", help="only the first N images")
    add("--exif", choices=("ignore", "upright"), default="ignore", help="turn images as their EXIF says (default: %(default)s)")
    add(
        "--cache",
        metavar="URI",
        help="keep decoded images there for later runs (150 KB each at 224 x 224)",
    )
    add("--cache-limit", type=size, metavar="SIZE", help="bytes the cache may hold, such as 50GB (default: all the disk has)")
    add_device_arguments(parser)
    add("--streams", type=positive, metavar="N", help="processes that hand out work, at most one a mesh (default: by rate)")
    add("--device-limit", type=seconds, default=120, metavar="S", help="seconds after which a silent device is taken to hang")
    add("--max-errors", type=share_or_count, default="1%", metavar="N|N%", help="unreadable images allowed (default: 1%%)")
    add("--resume", action="store_true", help="continue the run in --out")
    args = parser.parse_args(arguments)
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if args.cache_limit and args.cache is None:
        parser.error("--cache-limit goes with --cache")
    check_arguments(parser, args)
    return args


def describe(args: argparse.Namespace, device: str, checkpoint: Checkpoint, survey: Survey) -> Manifest:
    """The run this command asks for, as a manifest without attempts."""
    settings: dict[str, Any] = {
        "data": shown(args.data),
        "data_fingerprint": survey.fingerprint,
        "labels": args.labels and shown(args.labels),
        "limit": args.limit,
        "model_digest": checkpoint.digest,
        "preprocess": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(preprocess_for(args, checkpoint)).items()},
        "device": device,
        "precision": args.precision,
    }
    return Manifest(
        run_id=new_run_id(),
        job="imagenet",
        data=shown(args.data),
        model=args.model,
        model_digest=checkpoint.digest,
        class_names=checkpoint.class_names,
        images=survey.images,
        settings=settings,
        versions=package_versions(),
        labels_from=survey.labels_from,
        left_out=survey.left_out,
    )


def report(args: argparse.Namespace, manifest: Manifest, source: Source, survey: Survey, phases: Phases) -> int:
    """Reports from what is committed, then the verdict as an exit code."""
    from jobs.reporting.terminal_table import summary_table
    from jobs.reporting.write import write_reports

    try:
        summary = write_reports(args.out, phases, address=args.address, compact=manifest.run_id)
    except UserError as error:  # the images are classified: what failed is no mistake of the command's
        raise JobFailed(f"{error}; predictions are complete: `python -m jobs.report --out {args.out}` makes the report") from None
    manifest.attempts[-1]["seconds"] = phases.seconds
    if _changed(source, survey):
        manifest.end_attempt(args.out, CHANGED)
        raise JobFailed(f"{shown(args.data)}: changed while the run read it; start again with --overwrite")
    if survey.images is not None and summary.images != survey.images:
        manifest.end_attempt(args.out, "incomplete")
        raise JobFailed(f"{summary.images} of {survey.images} images have a row in {args.out}; add --resume to go on")
    manifest.files = committed_files(args.out)
    manifest.end_attempt(args.out, "finished")
    print(summary_table(summary))
    print(f"report: {os.path.join(args.out, 'report.html')}")
    allowed = args.max_errors if isinstance(args.max_errors, int) else int(args.max_errors * summary.images)
    if summary.errors > allowed:
        print(f"error: {summary.errors} images could not be read, more than --max-errors allows ({allowed})", file=sys.stderr)
        return TOO_MANY_ERRORS
    return 0


def _changed(source: Source, survey: Survey) -> bool:
    """Whether the data set is another than it was: one listing more, and the only way to notice a file that came or went."""
    try:
        return source.survey().fingerprint != survey.fingerprint
    except UserError:
        return True


if __name__ == "__main__":
    run(main)
