"""A data set, a checkpoint and an output, opened and checked before Ray starts: what a run is to do."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from jobs.pipeline.commit import committed_files
from jobs.pipeline.schema import PREDICTIONS
from jobs.pipeline.sources import Source, Survey, open_source, surveyed
from jobs.running.apart import check_apart
from jobs.running.arguments import model_directory
from jobs.running.damaged import discard
from jobs.running.manifest import Manifest, claim, new_run_id, package_versions
from jobs.running.output_lock import hold_output
from jobs.running.permissions import check_output
from jobs.running.terminal import say
from jobs.storage.address import shown
from jobs.storage.failure import StorageError, patiently, retry_seconds
from jobs.storage.files import forget_cached
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

NAMED = 5
"""Damaged files, and kinds of files that are left out, that are named."""


@dataclass
class Classification:
    """What the arguments of `jobs.imagenet` name. manifest: of the run, from before Ray on; changed as it goes on."""

    args: argparse.Namespace
    checkpoint: Checkpoint
    source: Source
    survey: Survey
    manifest: Manifest

    @classmethod
    def open(cls, args: argparse.Namespace) -> Classification:
        """Look through the data and claim the output; raises UserError for every mistake that can be told without Ray."""
        check_apart({"--data": args.data, "--out": args.out, "--cache": args.cache, "--model": model_directory(args)})
        check_no_partition(args.out)
        checkpoint = patiently(partial(load_checkpoint, args.model), args.model, "read")
        source = open_source(args.data, checkpoint_classes=checkpoint.class_names, labels=args.labels, limit=args.limit)
        retry_seconds()  # a mistake in it is told now
        found = _surveyed(source, args.data)
        if found.left_out:
            say(left_out(found), sys.stderr)
        hold_output(args.out)
        check_output(args.out)
        wanted = describe(args, args.device, checkpoint, found)
        manifest = claim(args.out, wanted, resume=args.resume, overwrite=args.overwrite)
        if args.resume and not manifest.attempts:
            say(f"--resume: no run in {shown(args.out)} yet; this begins one", sys.stderr)
        elif args.resume:
            discard_and_tell(args.out)
        return cls(args, checkpoint, source, found, manifest)

    def is_done(self) -> bool:
        """Whether the run is finished and its predictions are all there; says so, and says if some are not."""
        run, out = self.manifest.run_id, self.args.out
        if not self.manifest.finished:
            return False
        if self.manifest.files in ([], committed_files(out)):
            say(f"run {run} in {out} is finished; nothing to do")
            return True
        say(f"run {run} in {out} was finished, but predictions are gone or changed: going on with it", sys.stderr)
        return False

    def begin_attempt(self, device: str) -> None:
        """Claim the output once more, now that the device is known, and note that an attempt begins."""
        wanted = describe(self.args, device, self.checkpoint, self.survey)
        self.manifest = claim(self.args.out, wanted, resume=self.args.resume, overwrite=self.args.overwrite)
        self.manifest.begin_attempt(self.args.out, overwrite=self.args.overwrite)


def check_no_partition(out: str) -> None:
    """Raise UserError for an address that would give readers of Hive partitions, DuckDB among them, another column's value."""
    for part in out.split("/"):
        column, equals, _ = part.partition("=")
        if equals and column in PREDICTIONS.names:
            raise UserError(f"--out {shown(out)}: readers would take {part} for column {column!r} of all rows; choose another")


def _surveyed(source: Source, data: str) -> Survey:
    """What the data set holds. A mistake in a labels file is one only if a second read, past the page cache, gives it too."""
    survey = partial(surveyed, source)
    try:
        return patiently(survey, data, "list")
    except StorageError:
        raise
    except UserError:
        labels = getattr(source, "labels", None)
        if labels is None:
            raise
        forget_cached(labels)
        return patiently(survey, data, "list")


def describe(args: argparse.Namespace, device: str, checkpoint: Checkpoint, survey: Survey) -> Manifest:
    """The run that the arguments ask for, as a manifest without attempts."""
    preprocess = asdict(preprocess_for(args, checkpoint))
    settings: dict[str, Any] = {
        "data": shown(args.data),
        "data_fingerprint": survey.fingerprint,
        "labels": args.labels and shown(args.labels),
        "limit": args.limit,
        "model_digest": checkpoint.digest,
        "preprocess": {name: list(value) if isinstance(value, tuple) else value for name, value in preprocess.items()},
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


def preprocess_for(args: argparse.Namespace, checkpoint: Checkpoint) -> Preprocess:
    """The checkpoint's preprocessing, with images turned upright first if that was asked for."""
    return replace(checkpoint.preprocess, upright=args.exif == "upright")


def discard_and_tell(out: str) -> None:
    """Take out of the predictions what is to be classified again, and say so."""
    again = discard(out)
    if again.damaged:
        more = f" and {len(again.damaged) - NAMED:,} more" if len(again.damaged) > NAMED else ""
        names = ", ".join(sorted(again.damaged)[:NAMED])
        say(f"{shown(out)}: damaged files, deleted so that their images are classified again: {names}{more}", sys.stderr)
    if again.unread:
        say(f"{shown(out)}: {again.unread:,} images that storage had failed to give are read again", sys.stderr)


def left_out(survey: Survey) -> str:
    """What is not classified: 'left out: 15 .txt files, such as a/notes.txt; 2 hidden names, such as .DS_Store'."""
    kinds = list(survey.left_out.items())
    rest = sum(count for _, count in kinds[NAMED:])
    told = [f"{count:,} {kind}" for kind, count in kinds[:NAMED]] + ([f"{rest:,} more of other kinds"] if rest else [])
    return f"left out: {'; '.join(told)}"
