"""WebDataset tar shards: neighbouring members of one base name are one sample, an image and its label."""

from __future__ import annotations

import json
import os.path
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from jobs.pipeline.labels import LabelSpace
from jobs.pipeline.sources.fingerprint import SetHash, fingerprint
from jobs.pipeline.sources.image_files import MAX_FILE_BYTES
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, FileSet, has_extension, join, open_place, place_errors
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable, shard_id
from jobs.pipeline.sources.tar_members import DamagedTar, Member, tar_members
from jobs.pipeline.storage import shown
from vit_actor.errors import UserError

LABEL_EXTENSIONS = (".cls", ".json")
MAX_LABEL_BYTES = 2**20

SURVEYED = 64
"""Samples of the first tar whose labels are checked before work starts; all would mean reading the whole data set."""


@dataclass(frozen=True)
class _Sample:
    """An image of a tar. data: empty if not wanted. misfit: the label is readable but no class of the checkpoint."""

    image_id: str
    data: bytes = b""
    label: int | None = None
    error: str | None = None
    misfit: bool = False


@dataclass(frozen=True)
class TarShards:
    """Tar files in the order of their names, each one shard. An image's id is `shard.tar/member`.

    A sample's label is its .cls member (a name, index or WordNet id), or the "label" or "cls" of its .json member.
    """

    files: FileSet
    space: LabelSpace
    use_labels: bool
    limit: int | None

    def survey(self) -> Survey:
        contents, labelled = SetHash(), None
        with place_errors(self.files.folder):
            for name, size in self.files.files():
                contents.add(name, size)
                labelled = self._peek(name) if labelled is None else labelled
        if labelled is None:
            raise UserError(f"{shown(self.files.folder)}: its tar files hold no images")
        return Survey(None, labelled, fingerprint("tar", contents, labels=self.use_labels, limit=self.limit))

    def roots(self) -> list[str]:
        return self.files.roots(whole=self.limit is not None)

    def shards(self, root: str) -> Iterator[Shard]:
        left = self.limit
        for name in self.files.under(root):
            if left is None:
                yield Shard(shard_id(name, 0), {"file": name})
                continue
            take = sum(1 for _ in islice(self._samples(name, lambda _: False), left))
            yield Shard(shard_id(name, 0), {"file": name, "take": take}, take)
            left -= take
            if not left:
                return

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        samples = enumerate(islice(self._samples(shard.payload["file"], wanted), shard.payload.get("take")))
        while True:
            with place_errors(join(self.files.folder, shard.payload["file"])):
                ordinal, sample = next(samples, (-1, None))
            if sample is None:
                return
            if wanted(ordinal):
                yield ordinal, EncodedImage(sample.image_id, sample.label, sample.data, sample.error)

    def _peek(self, name: str) -> bool | None:
        """Whether a tar's first samples have labels; None if there are none. Raises UserError if they do not fit."""
        samples = list(islice(self._samples(name, lambda _: False), SURVEYED))
        for sample in samples:
            if sample.misfit:
                where = f"{shown(self.files.folder)}: {sample.image_id}"
                raise UserError(f"{where}: {sample.error}; or pass labels 'none' to predict only")
        if samples and samples[0].image_id == printable(name):
            raise UserError(f"{shown(join(self.files.folder, name))}: not a readable tar ({samples[0].error})")
        return any(sample.label is not None for sample in samples) if samples else None

    def _samples(self, name: str, wanted: Callable[[int], bool]) -> Iterator[_Sample]:
        """The images of a tar in its order. A damaged rest is one last error, with the tar's own name as its id.

        The second image of one name gets an id that ends in #2, and so on.
        """
        filesystem, base = open_place(self.files.folder)
        stem, images, labels = "", list[_Sample](), dict[str, bytes]()
        ordinal, seen = 0, dict[str, int]()
        try:
            for member in tar_members(filesystem, join(base, name)):
                if os.path.basename(member.name).startswith("."):
                    continue
                if stem != (stem := os.path.splitext(member.name)[0]):
                    yield from self._labelled(images, labels)
                    images, labels = [], {}
                if has_extension(member.name, IMAGE_EXTENSIONS):
                    seen[member.name] = seen.get(member.name, 0) + 1
                    repeat = f"#{seen[member.name]}" if seen[member.name] > 1 else ""
                    images.append(_Sample(printable(f"{name}/{member.name}{repeat}"), error="the tar ends inside this image"))
                    images[-1] = _read(images[-1], member, wanted(ordinal))
                    ordinal += 1
                elif has_extension(member.name, LABEL_EXTENSIONS) and member.size <= MAX_LABEL_BYTES:
                    labels[os.path.splitext(member.name)[1].lower()] = member.read()
        except DamagedTar as damage:
            images.append(_Sample(printable(name), error=f"{damage}; {ordinal} images before that"))
        yield from self._labelled(images, labels)

    def _labelled(self, images: list[_Sample], labels: dict[str, bytes]) -> Iterator[_Sample]:
        """The images of one sample, given its label members' bytes by extension."""
        if not self.use_labels or not labels or not images:
            yield from images
            return
        try:
            label, problem, misfit = self._label(labels), None, False
        except UserError as error:
            label, problem, misfit = None, str(error), True
        except (ValueError, RecursionError):
            label, problem, misfit = None, "its label cannot be read", False
        for image in images:
            failed = image.error or problem
            yield replace(image, label=label, error=failed, misfit=misfit, data=b"" if failed else image.data)

    def _label(self, labels: dict[str, bytes]) -> int | None:
        """Raises UserError for a label that is no class, ValueError for one that is no text or JSON."""
        if ".cls" in labels:
            return self.space.index(labels[".cls"].decode())
        found = json.loads(labels[".json"])
        if isinstance(found, dict):
            found = found.get("label", found.get("cls"))
        return None if found is None else self.space.index(str(found))


def _read(image: _Sample, member: Member, wanted: bool) -> _Sample:
    if member.size > MAX_FILE_BYTES:
        return replace(image, error=f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return replace(image, data=member.read() if wanted else b"", error=None)
