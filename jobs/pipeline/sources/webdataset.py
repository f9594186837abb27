"""WebDataset tar shards: neighbouring members whose names agree up to the first dot are one sample, an image and its label."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from jobs.pipeline.labels import WNID_SUFFIX, LabelError, LabelSpace
from jobs.pipeline.sources.image_files import MAX_FILE_BYTES
from jobs.pipeline.sources.labels_file import check_digest, label_of, read_labels
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, FileSet, has_extension, is_hidden
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable, shard_id
from jobs.pipeline.sources.tar_members import Member, tar_members
from jobs.storage.address import below, shown
from jobs.storage.failure import Damaged
from jobs.storage.files import SteadyFile, forget_cached
from vit_actor.errors import UserError

LABELS = ("cls", "class_id", "label", "json", "txt")
"""What follows the first dot of a member that is a label; the first one counts. A .txt may as well be a caption."""
KEYS = ("label", "cls", "class_id", "class")
"""Of a JSON member, the entry that is the label."""
MAX_LABEL_BYTES = 2**20
MOST_IMAGES = 16
"""Of one sample: more of them are images of their own, whose names have dots in them."""
MAX_SAMPLE_BYTES = 256 * 2**20
"""Of one sample's images together, which are in memory at once."""

SURVEYED = 64
"""Samples of the first tar whose labels are checked before work starts; all would mean reading the whole data set."""


@dataclass(frozen=True)
class _Sample:
    """An image of a tar. member: its name there. alone: whether only a type follows the name's first dot. data: empty if not
    wanted. misfit: the label is readable but no class of the checkpoint."""

    image_id: str
    member: str = ""
    alone: bool = False
    data: bytes = b""
    label: int | None = None
    error: str | None = None
    misfit: bool = False


@dataclass(frozen=True)
class TarShards:
    """Tar files in the order of their names, each one shard. An image's id is `shard.tar/member`.

    A sample's image is the member with nothing but a type behind the first dot (x.jpg, not the x.seg.png beside it), or those
    that there are where there is none such. Its label is the member that LABELS has first, else the one that a labels file has
    for the image's name, else a WordNet id in the name, such as `x_n01440764.JPEG`.

    labels, labels_digest: of a labels file, as in FlatFolder.
    """

    files: FileSet
    space: LabelSpace
    use_labels: bool
    labels: str | None
    labels_digest: str | None
    limit: int | None

    @property
    def folder(self) -> str:
        return self.files.folder

    def shards(self) -> Generator[Shard, None, Survey]:
        labelled, left_out, left = None, Counter[str](), self.limit
        for name, size in self.files.files(left_out):
            labelled = self._peek(name, size) if labelled is None else labelled
            if left is None:
                yield Shard(shard_id(name, 0), {"file": name, "size": size})
            elif left:
                take = sum(1 for _ in islice(self._samples(name, size, lambda _: False), left))
                yield Shard(shard_id(name, 0), {"file": name, "size": size, "take": take}, take)
                left -= take
        if labelled is None:
            raise UserError(f"{shown(self.files.folder)}: its tar files hold no images")
        members = ", ".join(f".{name}" for name in LABELS)
        looked = f"none found in the first {SURVEYED} samples (looked for members {members})"
        told = (shown(self.labels) if self.labels else f"members {members} or names") if labelled else looked
        labels_by = f"samples by the first dot, {self.labels_digest or self.use_labels}"
        return Survey(None, labelled, told if self.use_labels else "", dict(left_out), labels_by=labels_by)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        samples = self._samples(shard.payload["file"], shard.payload["size"], wanted)
        for ordinal, sample in enumerate(islice(samples, shard.payload.get("take"))):
            if wanted(ordinal):
                yield ordinal, EncodedImage(sample.image_id, sample.label, sample.data, sample.error)

    def _peek(self, name: str, size: int) -> bool | None:
        """Whether a tar's first samples have labels; None if there are none. Raises UserError if they do not fit."""
        samples = list(islice(self._samples(name, size, lambda _: False), SURVEYED))
        if any(sample.error for sample in samples):  # a second look, past the page cache, before anything is said of it
            forget_cached(below(self.files.folder, name))
            samples = list(islice(self._samples(name, size, lambda _: False), SURVEYED))
        for sample in samples:
            if sample.misfit:
                where = f"{shown(self.files.folder)}: {sample.image_id}"
                raise UserError(f"{where}: {sample.error}; or pass --labels none to predict only")
        if samples and samples[0].image_id == printable(name):
            raise UserError(f"{shown(below(self.files.folder, name))}: not a readable tar ({samples[0].error})")
        return any(sample.label is not None for sample in samples) if samples else None

    def _samples(self, name: str, size: int, wanted: Callable[[int], bool]) -> Iterator[_Sample]:
        """The images of a tar in its order. A damaged rest is one last error, with the tar's own name as its id.

        The second image of one name gets an id that ends in #2, and so on.
        """
        key, images, labels, held = "", list[_Sample](), dict[str, dict[str, bytes]](), 0
        ordinal, seen = 0, dict[str, int]()
        try:
            for member in tar_members(SteadyFile(below(self.files.folder, name), size)):
                if any(is_hidden(part) for part in member.name.split("/") if part not in (".", "..")):
                    continue
                stem, alone = _key(member.name)
                full_stem, _, kind = member.name.rpartition(".")
                if stem != key:
                    yield from self._labelled(images, key, labels)
                    ordinal += len(images)
                    key, images, labels, held = stem, [], {}, 0
                if has_extension(member.name, IMAGE_EXTENSIONS):
                    if images and not alone and any(image.alone for image in images):
                        continue  # a mask or the like, beside the image itself
                    if alone and not any(image.alone for image in images):
                        images, held = [], 0  # what came before was beside it
                    if len(images) == MOST_IMAGES:  # names with dots in them, and no sample
                        yield from self._labelled(images[:-1], key, labels)
                        ordinal += len(images) - 1
                        images, held = images[-1:], len(images[-1].data)
                    seen[member.name] = seen.get(member.name, 0) + 1
                    repeat = f"#{seen[member.name]}" if seen[member.name] > 1 else ""
                    image_id = printable(f"{name}/{member.name}{repeat}")
                    images.append(_Sample(image_id, member.name, alone, error="the tar ends inside this image"))
                    held += member.size
                    images[-1] = _read(images[-1], member, wanted(ordinal + len(images) - 1), held)
                elif kind.lower() in LABELS and member.size <= MAX_LABEL_BYTES and not member.lost:
                    labels.setdefault(full_stem, {})[kind.lower()] = member.read()
        except Damaged as damage:
            found = ordinal + len(images)
            images.append(_Sample(printable(name), error=f"the tar is damaged: {damage}; {found} images before that"))
        yield from self._labelled(images, key, labels)

    def _labelled(self, images: list[_Sample], key: str, labels: dict[str, dict[str, bytes]]) -> Iterator[_Sample]:
        """The images of one sample, given its label members' bytes by name up to the last dot and by what follows it."""
        for image in images:
            label, problem, misfit = None, None, False
            own = labels.get(image.member.rpartition(".")[0]) or labels.get(key, {})
            try:
                label = self._label(image, own) if self.use_labels and image.member else None
            except LabelError as error:
                problem, misfit = str(error), True
            except (ValueError, RecursionError):
                problem = "its label cannot be read"
            failed = image.error or problem
            yield replace(image, label=label, error=failed, misfit=misfit, data=b"" if failed else image.data)

    def _label(self, image: _Sample, labels: dict[str, bytes]) -> int | None:
        """Raises UserError for a label that is no class, ValueError for one that is no text or JSON."""
        if self.labels is not None:
            return label_of(image.member.rpartition("/")[2], _from_file(self.labels, self.labels_digest, self.space))
        kind = next((kind for kind in LABELS if kind in labels), None)
        if kind is None:
            suffix = WNID_SUFFIX.fullmatch(image.member)
            return self.space.index(suffix[1]) if suffix else None
        text = labels[kind].decode().strip()
        if kind == "txt":
            found = self.space.matches(text)
            return found[0] if len(found) == 1 else None
        if kind == "json":
            parsed = json.loads(text)
            if isinstance(parsed, dict):
                parsed = next((parsed[name] for name in KEYS if parsed.get(name) is not None), None)
            text = "" if parsed is None else str(parsed)
        return None if text in ("", "-1") else self.space.index(text)


@lru_cache(maxsize=2)
def _from_file(uri: str, digest: str | None, space: LabelSpace) -> dict[str | None, int]:
    check_digest(uri, digest)
    return dict(read_labels(uri, space))


def _key(name: str) -> tuple[str, bool]:
    """What the members of a sample have in common, and whether only a type follows it: a/x.seg.png -> ("a/x", False)."""
    folder, slash, last = name.rpartition("/")
    stem, _, field = last.partition(".")
    return folder + slash + stem, "." not in field


def _read(image: _Sample, member: Member, wanted: bool, held: int) -> _Sample:
    """held: bytes of the sample's images so far, this one included."""
    if member.lost:
        return replace(image, error=member.lost)
    if member.size > MAX_FILE_BYTES:
        return replace(image, error=f"larger than {MAX_FILE_BYTES >> 20} MiB")
    if held > MAX_SAMPLE_BYTES:
        return replace(image, error=f"the sample's images together are larger than {MAX_SAMPLE_BYTES >> 20} MiB")
    return replace(image, data=member.read() if wanted else b"", error=None)
