"""A data set and a checkpoint, opened and checked before Ray starts, and the output that a run of them claims."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from functools import partial

from jobs.pipeline.commit import committed_files
from jobs.pipeline.ledger import check_seconds
from jobs.pipeline.sources import Source, Survey, open_source, surveyed
from jobs.running.chip_checks import Attempts
from jobs.running.clearing import check_output
from jobs.running.damaged import discard
from jobs.running.manifest import Manifest, claim
from jobs.running.terminal import say
from jobs.running.words import some
from jobs.settings import ImagenetSettings
from jobs.storage.address import shown
from jobs.storage.failure import StorageError, patiently, retry_seconds
from jobs.storage.files import forget_cached
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

NAMED = 5  # Damaged files, and kinds of files that are left out, that are named


@dataclass(frozen=True)
class Inputs:
    """What is classified, and by which checkpoint. preprocess: the checkpoint's, upright where that was asked for."""

    checkpoint: Checkpoint
    source: Source
    survey: Survey
    preprocess: Preprocess

    @classmethod
    def open(cls, settings: ImagenetSettings) -> Inputs:
        """Look through the checkpoint and the data; says which files it leaves out. Raises UserError for a mistake in them."""
        checkpoint = patiently(partial(load_checkpoint, settings.model), settings.model, "read")
        classes = checkpoint.class_names
        source = open_source(settings.data, checkpoint_classes=classes, labels=settings.labels, limit=settings.limit)
        retry_seconds(), check_seconds()  # a mistake in them is told now
        found = _surveyed(source, settings.data)
        for option, asked in (("--min-top1", settings.min_top1), ("--min-top5", settings.min_top5)):
            if asked and not found.labelled:
                raise UserError(f"{option}: {shown(settings.data)} has no labels; give --labels, or leave {option} out")
        if found.left_out:
            say(left_out(found), sys.stderr)
        preprocess = replace(checkpoint.preprocess, upright=settings.exif == "upright")
        return cls(checkpoint, source, found, preprocess)

    def describe(self, settings: ImagenetSettings, device: str) -> Manifest:
        """The run that is asked for, without attempts."""
        preprocess = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.preprocess).items()}
        decisive = {
            "data": shown(settings.data),
            "data_fingerprint": self.survey.fingerprint,
            "labels": settings.labels and shown(settings.labels),
            "limit": settings.limit,
            "model_digest": self.checkpoint.digest,
            "preprocess": preprocess,
            "device": device,
            "precision": settings.precision,
            "images_per_chip": settings.images_per_chip,
        }
        about = {"images": self.survey.images, "labels_from": self.survey.labels_from, "left_out": self.survey.left_out}
        return Manifest.of("imagenet", settings, self.checkpoint, data=shown(settings.data), settings=decisive, **about)


def claim_output(settings: ImagenetSettings, inputs: Inputs) -> Manifest:
    """The run to begin or to go on with, in an output that is held.

    Deletes damaged predictions of a run to go on with. Raises UserError where the output cannot be had.
    """
    check_output(settings.out)
    wanted = inputs.describe(settings, settings.device)
    manifest = claim(settings.out, wanted, resume=settings.resume, overwrite=settings.overwrite)
    if settings.resume and not manifest.attempts:
        say(f"--resume: no run in {shown(settings.out)} yet; this begins one", sys.stderr)
    elif settings.resume:
        discard_and_tell(settings.out, manifest.attempts)
    return manifest


def is_finished(manifest: Manifest, out: str) -> bool:
    """Whether the run is finished and its predictions are all there; says so, and says if some are not."""
    if not manifest.finished:
        return False
    if manifest.files in ([], committed_files(out)):
        say(f"run {manifest.run_id} in {out} is finished; nothing to do")
        return True
    say(f"run {manifest.run_id} in {out} was finished, but predictions are gone or changed: going on with it", sys.stderr)
    return False


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


def discard_and_tell(out: str, attempts: Attempts) -> None:
    """Take out of the predictions what is to be classified again, and say so."""
    again = discard(out, attempts)
    if again.damaged:
        names = some(sorted(again.damaged), NAMED)
        say(f"{shown(out)}: damaged files, deleted so that their images are classified again: {names}", sys.stderr)
    if again.unchecked:
        say(f"{shown(out)}: no check of chips followed {again.unchecked:,} of the chunks, which are classified again", sys.stderr)
    if again.unread:
        say(f"{shown(out)}: storage had failed to give {again.unread:,} of the images, which are read again", sys.stderr)


def left_out(survey: Survey) -> str:
    """What is not classified: 'left out: 15 .txt files, such as a/notes.txt; 2 hidden names, such as .DS_Store'."""
    kinds = list(survey.left_out.items())
    rest = sum(count for _, count in kinds[NAMED:])
    told = [f"{count:,} {kind}" for kind, count in kinds[:NAMED]] + ([f"{rest:,} more of other kinds"] if rest else [])
    return f"left out: {'; '.join(told)}"
