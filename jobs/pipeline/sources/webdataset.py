"""WebDataset tar shards: an image's label is a member of its sample, in the image's name, or in a file."""

import json
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from jobs.pipeline.labels import WNID_SUFFIX, Beside, LabelError, LabelSpace, Readings, predict_only, quoted
from jobs.pipeline.sources.labels_file import Labels, digest_of, read_labels
from jobs.pipeline.sources.listing import FileSet, LeftOut
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, shard_id
from jobs.pipeline.sources.tar_members import tar_members
from jobs.pipeline.sources.tar_samples import MEMBERS, Sample, samples
from jobs.storage.address import below, shown
from jobs.storage.files import SteadyFile, forget_cached
from vit_actor.errors import UserError

JSON_KEYS = ("label", "cls", "class_id", "class")  # Of a JSON member, entries that may be the label
UNKNOWN = "-1"  # A text that says that there is no label
NAME, FILE = "name", "file"
KINDS = (*MEMBERS[:4], *(f"json.{key}" for key in JSON_KEYS), "txt", NAME)
"""Where a sample's label may be: a member, all of a JSON member or an entry of it, the WordNet id in the image's name."""
SURVEYED = 64  # Samples of the first tar whose labels are checked before work starts; all would mean reading the whole data set


@dataclass(frozen=True)
class TarShards:
    """Tar files in the order of their names, each one shard. An image's id is `shard.tar/member`.

    An image's label is in the same place for all samples, one of KINDS or a labels file.
    labels, labels_digest: of a labels file, as in ImageFiles. kind: one of KINDS as the user gave it; None to look.
    """

    files: FileSet
    space: LabelSpace
    use_labels: bool
    labels: str | None
    labels_digest: str | None
    kind: str | None
    limit: int | None

    @property
    def folder(self) -> str:
        return self.files.folder

    def shards(self) -> Generator[Shard, None, Survey]:
        kind, left_out, left, readings = None, LeftOut(), self.limit, Readings(self.space)
        if self.labels:
            Labels(self.labels, read_labels(self.labels, readings))
        for name, size in self.files.files(left_out):
            if kind is None:
                kind = self._peek(name, size, left_out, readings)
            payload = {"file": name, "size": size, "label": kind or "", "ways": readings.examples}
            if left is None:
                yield Shard(shard_id(name, 0), payload)
            elif left:
                take = sum(1 for _ in islice(self._samples(name, size), left))
                yield Shard(shard_id(name, 0), payload | {"take": take}, take)
                left -= take
        if kind is None:
            raise UserError(f"{shown(self.folder)}: its tar files hold no images")
        labels_by = f"samples by the first dot, {self.labels_digest or self.use_labels} {self.space.reading}"
        told = ""
        if kind:
            told = readings.told({FILE: shown(self.labels or ""), NAME: "names of members"}.get(kind, f".{kind} members"))
        elif self.use_labels:
            looked = ", ".join(f".{member}" for member in MEMBERS)
            told = f"none found in the first {SURVEYED} samples (looked for members {looked})"
        return Survey(None, bool(kind), told, left_out.told(), labels_by=labels_by)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        name, kind, places = shard.payload["file"], shard.payload["label"], dict[str, str]()
        readings = Readings(self.space, dict(shard.payload["ways"]))
        for ordinal, sample in enumerate(islice(self._samples(name, shard.payload["size"], wanted), shard.payload.get("take"))):
            if wanted(ordinal):
                label, failed = None, sample.error
                try:
                    label = self._label(kind, sample, places, readings) if self.use_labels and sample.member else None
                except LabelError as error:
                    failed = failed or str(error)
                yield ordinal, EncodedImage(sample.image_id, label, b"" if failed else sample.data, failed)

    def _samples(
        self, name: str, size: int, wanted: Callable[[int], bool] = lambda _: False, beside: LeftOut | None = None
    ) -> Iterator[Sample]:
        file = SteadyFile(below(self.folder, name), size)
        return samples(name, tar_members(file), wanted, beside or LeftOut())

    def _peek(self, name: str, size: int, left_out: LeftOut, readings: Readings) -> str | None:
        """Where labels are by a tar's first samples, "" for nowhere and None without samples. readings: is told those labels.

        Raises UserError for labels that do not fit, and where several places have labels that differ.
        """
        for again in (False, True):  # a second look, past the page cache, before anything is said of damage
            beside = LeftOut()
            found = list(islice(self._samples(name, size, beside=beside), SURVEYED))
            if again or not any(sample.error for sample in found):
                break
            forget_cached(below(self.folder, name))
        if not found:
            left_out.add("tars without images", name)
            return None
        if not found[0].member:
            raise UserError(f"{shown(below(self.folder, name))}: not a readable tar ({found[0].error})")
        found = [sample for sample in found if sample.member]
        kind = self._kind(found, beside) if self.use_labels else ""
        for what, (count, example) in beside.found.items():
            left_out.add(f"{what} in the first {SURVEYED} samples", f"{name}/{example}", count)
        columns, where = Beside(self.space), shown(self.folder)
        try:
            for sample in found if kind and kind != FILE else ():
                where = f"{shown(self.folder)}: {sample.image_id}"
                words = self._words(kind, sample)
                if (index := self._checked(kind, words, readings)) is not None:
                    columns.add(words[kind], index, {k: v for k, v in _entries(sample).items() if isinstance(v, str)})
            if self.kind is None:
                columns.check(lambda column: f"pass --labels {kind} or --labels {column}")
        except LabelError as error:
            raise predict_only(where, error) from None
        return kind

    def _kind(self, found: list[Sample], beside: LeftOut) -> str:
        """Which of KINDS the labels of these samples are, the first that has any; "" for none. beside: is told other members."""
        if self.labels or self.kind:
            return FILE if self.labels else self.kind or ""
        words, readings = [self._words("txt", sample) for sample in found], Readings(self.space)
        try:
            captions = any("txt" not in each or readings.index(each["txt"]) < 0 for each in words)
        except LabelError:
            captions = True
        if captions:
            words = [self._words("", sample) for sample in found]
        for sample, each in zip(found, words, strict=True):
            for member in sample.own.keys() - {kind.partition(".")[0] for kind in each}:
                beside.add(f".{member} members that are no labels", f"{sample.stem}.{member}")
        return next((kind for kind in KINDS if any(kind in each for each in words)), "")

    def _words(self, kind: str, sample: Sample) -> dict[str, str]:
        """A sample's labels by where they are: at one of KINDS, where it has any. A .txt is one only if labels are there.

        UNKNOWN is one only at `kind`.
        """
        texts = {
            member: _text(sample, member) for member in sample.own if member != "json" and (member != "txt" or kind == "txt")
        }
        texts |= {key: str(value) for key, value in _entries(sample).items() if value is not None and key in (*KINDS, kind)}
        if suffix := WNID_SUFFIX.fullmatch(sample.member):
            texts[NAME] = suffix[1]
        return {key: text for key, text in texts.items() if text and (text != UNKNOWN or key == kind)}

    def _checked(self, kind: str, words: dict[str, str], readings: Readings) -> int | None:
        """The class of a sample; None if it has no label. Raises LabelError where that is none, or where labels differ."""
        if (text := words.get(kind, "")) == UNKNOWN:
            return None
        index = readings.index(text) if text else None
        for other, word in words.items() if self.kind is None else ():
            if self.space.how_sure(word) and (index is None or self.space.index(word) != index):
                here = f".{kind} is {quoted(text)} and" if text else f"it has no .{kind}, as the first samples have, but"
                one = here if kind else "the first samples have no labels, but here"
                ways = " or ".join(f"--labels {each}" for each in (kind, other) if each)
                raise LabelError(f"{one} .{other} is {quoted(word)}; pass {ways}")
        return index

    def _label(self, kind: str, sample: Sample, places: dict[str, str], readings: Readings) -> int | None:
        """places: the folder of each image of this tar so far, by name. Raises LabelError."""
        if kind != FILE:
            if kind.startswith("json") and "json" in sample.own and _entries(sample) == {"json": None}:
                raise LabelError("its label cannot be read")
            return self._checked(kind, self._words(kind, sample), readings)
        labels = _from_file(self.labels or "", self.labels_digest, self.space)
        folder, _, name = sample.member.rpartition("/")
        found, first = labels.of(sample.member), places.setdefault(name, folder) == folder
        if found is not None and not first and (found := labels.of(sample.member, folders=True)) is None:
            raise LabelError("several images have its name, in other folders; give them with their folders in the labels file")
        return found


@lru_cache(maxsize=2)
def _from_file(uri: str, digest: str | None, space: LabelSpace) -> Labels:
    if digest_of(uri) != digest:
        where = f"on {socket.gethostname()} it is another file than where the job was started"
        raise UserError(f"{shown(uri)}: {where}, or it has changed; put it where all hosts see it")
    return Labels(uri, read_labels(uri, Readings(space)))


def _text(sample: Sample, member: str) -> str:
    return sample.own[member].decode("utf-8-sig", "replace").strip()


def _entries(sample: Sample) -> dict[str, Any]:
    """What is in a sample's JSON, by the place that --labels would name: `json.` and a key, `json` for what has no keys.

    None at `json` where there is nothing that can be read.
    """
    if "json" not in sample.own:
        return {}
    try:
        parsed = json.loads(_text(sample, "json"))
    except (ValueError, RecursionError):
        parsed = None
    return {f"json.{key}": value for key, value in parsed.items()} if isinstance(parsed, dict) else {"json": parsed}
