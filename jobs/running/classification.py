"""A data set and a checkpoint, opened and checked before Ray starts."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from functools import partial

from jobs.pipeline.ledger import check_seconds
from jobs.pipeline.sources import Source, Survey, open_source, surveyed
from jobs.running.manifest import Manifest
from jobs.running.terminal import say
from jobs.settings import ImagenetSettings
from jobs.storage.address import shown
from jobs.storage.failure import StorageError, patiently, retry_seconds
from jobs.storage.files import forget_cached
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

NAMED = 5  # Kinds of files that are left out, that are named


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
        survey = partial(surveyed, source)
        try:
            found = patiently(survey, settings.data, "list")
        except UserError as error:
            labels = getattr(source, "labels", None)
            if isinstance(error, StorageError) or labels is None:
                raise
            forget_cached(labels)  # a mistake in a labels file is one only if a second read, past the page cache, gives it too
            found = patiently(survey, settings.data, "list")
        for option, asked in (("--min-top1", settings.min_top1), ("--min-top5", settings.min_top5)):
            if asked and not found.labelled:
                raise UserError(f"{option}: {shown(settings.data)} has no labels; give --labels, or leave {option} out")
        if found.left_out:  # 15 .txt files, such as a/notes.txt; 2 hidden names, such as .DS_Store
            kinds = [f"{count:,} {kind}" for kind, count in found.left_out.items()]
            rest = sum(list(found.left_out.values())[NAMED:])
            say(f"left out: {'; '.join(kinds[:NAMED] + [f'{rest:,} more of other kinds'] * bool(rest))}", sys.stderr)
        return cls(checkpoint, source, found, replace(checkpoint.preprocess, upright=settings.exif == "upright"))

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
