"""WebDataset tar shards: neighbouring members whose names agree up to the first dot are one sample, an image and its label."""

import json
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

from jobs.pipeline.labels import WNID_SUFFIX, Beside, LabelError, LabelSpace, Readings, predict_only, quoted
from jobs.pipeline.sources.image_files import MAX_FILE_BYTES
from jobs.pipeline.sources.labels_file import Labels, digest_of, read_labels
from jobs.pipeline.sources.listing import HIDDEN, FileSet, LeftOut, is_hidden, is_image
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable, shard_id
from jobs.pipeline.sources.tar_members import Member, tar_members
from jobs.storage.address import below, shown
from jobs.storage.failure import Damaged
from jobs.storage.files import SteadyFile, forget_cached
from vit_actor.errors import UserError

MEMBERS = ("cls", "class_id", "label", "json", "txt")  # What follows the first dot of a member that may be a label
JSON_KEYS = ("label", "cls", "class_id", "class")  # Of a JSON member, entries that may be the label
UNKNOWN = "-1"  # A text that says that there is no label
NAME, FILE = "name", "file"
KINDS = (*MEMBERS[:4], *(f"json.{key}" for key in JSON_KEYS), "txt", NAME)
"""Where a sample's label may be: a member, all of a JSON member or an entry of it, the WordNet id in the image's name."""
MAX_LABEL_BYTES = 2**20
MOST_IMAGES = 16  # Of one sample: more of them are images of their own, whose names have dots in them
MAX_SAMPLE_BYTES = 256 * 2**20  # Of one sample's images together, which are in memory at once
SURVEYED = 64  # Samples of the first tar whose labels are checked before work starts; all would mean reading the whole data set
type Own = dict[str, bytes]  # A sample's members that may be labels, by what follows its name


@dataclass(frozen=True)
class _Sample:
    """An image of a tar. member: its name there. alone: whether only a type follows the name's first dot. data: empty if not
    wanted."""

    image_id: str
    member: str = ""
    alone: bool = False
    data: bytes = b""
    error: str | None = None

    @property
    def stem(self) -> str:
        """The member's name up to its last dot."""
        return self.member.rpartition(".")[0]


@dataclass(frozen=True)
class TarShards:
    """Tar files in the order of their names, each one shard. An image's id is `shard.tar/member`.

    A sample's image is the member with nothing but a type behind the first dot (x.jpg, not the x.seg.png beside it), or those
    that there are where there is none such. Its label is in the same place for all samples, one of KINDS or a labels file.

    labels, labels_digest: of a labels file, as in FlatFolder. kind: one of KINDS as the user gave it; None to look.
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
                take = sum(1 for _ in islice(self._groups(name, size, lambda _: False), left))
                yield Shard(shard_id(name, 0), payload | {"take": take}, take)
                left -= take
        if kind is None:
            raise UserError(f"{shown(self.files.folder)}: its tar files hold no images")
        labels_by = f"samples by the first dot, {self.labels_digest or self.use_labels} {self.space.reading}"
        where = {FILE: shown(self.labels or ""), NAME: "names of members"}.get(kind, f".{kind} members")
        looked = ", ".join(f".{member}" for member in MEMBERS)
        none = f"none found in the first {SURVEYED} samples (looked for members {looked})"
        told = (readings.told(where) if kind else none) if self.use_labels else ""
        return Survey(None, bool(kind), told, left_out.told(), labels_by=labels_by)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        name, kind, places = shard.payload["file"], shard.payload["label"], dict[str, str]()
        readings = Readings(self.space, dict(shard.payload["ways"]))
        samples = islice(self._groups(name, shard.payload["size"], wanted), shard.payload.get("take"))
        for ordinal, (sample, own) in enumerate(samples):
            if wanted(ordinal):
                label, problem = None, None
                try:
                    label = self._label(kind, sample, own, places, readings) if self.use_labels and sample.member else None
                except LabelError as error:
                    problem = str(error)
                failed = sample.error or problem
                yield ordinal, EncodedImage(sample.image_id, label, b"" if failed else sample.data, failed)

    def _peek(self, name: str, size: int, left_out: LeftOut, readings: Readings) -> str | None:
        """Where labels are by a tar's first samples, "" for nowhere and None without samples. readings: is told those labels.

        Raises UserError for labels that do not fit, and where several places have labels that differ.
        """
        beside = LeftOut()
        found = list(islice(self._groups(name, size, lambda _: False, beside), SURVEYED))
        if any(sample.error for sample, _ in found):  # a second look, past the page cache, before anything is said of it
            forget_cached(below(self.files.folder, name))
            beside = LeftOut()
            found = list(islice(self._groups(name, size, lambda _: False, beside), SURVEYED))
        if not found:
            left_out.add("tars without images", name)
            return None
        if found[0][0].image_id == printable(name):
            raise UserError(f"{shown(below(self.files.folder, name))}: not a readable tar ({found[0][0].error})")
        samples = [(sample, own) for sample, own in found if sample.member]
        kind = self._kind(samples, beside) if self.use_labels else ""
        for what, (count, example) in beside.found.items():
            left_out.add(f"{what} in the first {SURVEYED} samples", f"{name}/{example}", count)
        columns, where = Beside(self.space), shown(self.files.folder)
        try:
            for sample, own in samples if kind and kind != FILE else ():
                where = f"{shown(self.files.folder)}: {sample.image_id}"
                words = self._words(kind, sample, own)
                if (index := self._checked(kind, words, readings)) is not None:
                    columns.add(words[kind], index, _entries(own))
            if self.kind is None:
                columns.check(lambda column: f"pass --labels {kind} or --labels {column}")
        except LabelError as error:
            raise predict_only(where, error) from None
        return kind

    def _kind(self, samples: list[tuple[_Sample, Own]], beside: LeftOut) -> str:
        """Which of KINDS the labels of these samples are, the first that has any; "" for none."""
        if self.labels or self.kind:
            return FILE if self.labels else self.kind or ""
        words, readings = [self._words("txt", *each) for each in samples], Readings(self.space)
        try:
            captions = any("txt" not in each or readings.index(each["txt"]) < 0 for each in words)
        except LabelError:
            captions = True
        if captions:
            words = [self._words("", *each) for each in samples]
        for (sample, own), found in zip(samples, words, strict=True):
            for member in own.keys() - {kind.partition(".")[0] for kind in found}:
                beside.add(f".{member} members that are no labels", f"{sample.member.rpartition('.')[0]}.{member}")
        return next((kind for kind in KINDS if any(kind in each for each in words)), "")

    def _words(self, kind: str, sample: _Sample, own: Own) -> dict[str, str]:
        """A sample's labels by where they are: at one of KINDS, where it has any. A .txt is one only if labels are there.

        UNKNOWN is one only at `kind`.
        """
        texts = {member: _text(own, member) for member in own if member != "txt" or kind == "txt"}
        if "json" in texts:
            parsed = _parsed(texts.pop("json"))
            entries = {f"json.{key}": value for key, value in parsed.items()} if isinstance(parsed, dict) else {"json": parsed}
            texts |= {key: str(value) for key, value in entries.items() if value is not None and key in (*KINDS, kind)}
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

    def _label(self, kind: str, sample: _Sample, own: Own, places: dict[str, str], readings: Readings) -> int | None:
        """places: the folder of each image of this tar so far, by name. Raises LabelError."""
        if kind != FILE:
            if kind.startswith("json") and "json" in own and _parsed(_text(own, "json")) is None:
                raise LabelError("its label cannot be read")
            return self._checked(kind, self._words(kind, sample, own), readings)
        labels = _from_file(self.labels or "", self.labels_digest, self.space)
        folder, _, name = sample.member.rpartition("/")
        found, first = labels.of(sample.member), places.setdefault(name, folder) == folder
        if found is not None and not first and (found := labels.of(sample.member, folders=True)) is None:
            raise LabelError("several images have its name, in other folders; give them with their folders in the labels file")
        return found

    def _groups(
        self, name: str, size: int, wanted: Callable[[int], bool], beside: LeftOut | None = None
    ) -> Iterator[tuple[_Sample, Own]]:
        """The images of a tar in its order. A damaged rest is one last error, with the tar's own name as its id.

        The second image of one name gets an id that ends in #2, and so on. beside: is told members that are no sample's image.
        """
        key, images, labels, held = "", list[_Sample](), dict[str, Own](), 0
        ordinal, seen = 0, dict[str, int]()
        beside = LeftOut() if beside is None else beside
        try:
            for member in tar_members(SteadyFile(below(self.files.folder, name), size)):
                *folders, last = (part for part in member.name.split("/") if part not in (".", ".."))
                if is_hidden(last) or any(is_hidden(folder, True) for folder in folders):
                    beside.add(HIDDEN, member.name)
                    continue
                stem, alone = _key(member.name)
                full_stem, _, kind = member.name.rpartition(".")
                if stem != key:
                    yield from _with_labels(images, key, labels, beside)
                    ordinal += len(images)
                    key, images, labels, held = stem, [], {}, 0
                if is_image(member.name):
                    if images and not alone and any(image.alone for image in images):
                        beside.add("images beside a sample's own", member.name)
                        continue  # a mask or the like
                    if alone and not any(image.alone for image in images):
                        for image in images:
                            beside.add("images beside a sample's own", image.member)
                        images, held = [], 0
                    if len(images) == MOST_IMAGES:  # names with dots in them, and no sample
                        *ready, latest = images
                        yield from ((image, _own(image, key, labels)) for image in ready)
                        for image in ready:
                            if image.stem != latest.stem:
                                labels.pop(image.stem, None)
                        ordinal += len(ready)
                        images, held = [latest], len(latest.data)
                    seen[member.name] = seen.get(member.name, 0) + 1
                    repeat = f"#{seen[member.name]}" if seen[member.name] > 1 else ""
                    image_id = printable(f"{name}/{member.name}{repeat}")
                    images.append(_Sample(image_id, member.name, alone, error="the tar ends inside this image"))
                    held += member.size
                    images[-1] = _read(images[-1], member, wanted(ordinal + len(images) - 1), held)
                elif kind.lower() in MEMBERS and member.size <= MAX_LABEL_BYTES and not member.lost:
                    labels.setdefault(full_stem, {})[kind.lower()] = member.read()
                else:
                    beside.add_file(member.name)
        except Damaged as damage:
            found = ordinal + len(images)
            images.append(_Sample(printable(name), error=f"the tar is damaged: {damage}; {found} images before that"))
        yield from _with_labels(images, key, labels, beside)


def _with_labels(images: list[_Sample], key: str, labels: dict[str, Own], beside: LeftOut) -> Iterator[tuple[_Sample, Own]]:
    """The images of one sample with its label members, which are by name up to the last dot. beside: is told those of none."""
    stems = {image.stem for image in images}
    for stem in labels.keys() - (stems | {key} if images else set()):
        for member in labels[stem]:
            beside.add(f".{member} members without an image of that name beside them", f"{stem}.{member}")
    for image in images:
        yield image, _own(image, key, labels)


def _own(image: _Sample, key: str, labels: dict[str, Own]) -> Own:
    return labels.get(image.stem) or labels.get(key, {})


@lru_cache(maxsize=2)
def _from_file(uri: str, digest: str | None, space: LabelSpace) -> Labels:
    if digest_of(uri) != digest:
        where = f"on {socket.gethostname()} it is another file than where the job was started"
        raise UserError(f"{shown(uri)}: {where}, or it has changed; put it where all hosts see it")
    return Labels(uri, read_labels(uri, Readings(space)))


def _text(own: Own, member: str) -> str:
    return own.get(member, b"").decode("utf-8-sig", "replace").strip()


def _parsed(text: str) -> Any:
    """What is in a text of JSON; None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _entries(own: Own) -> dict[str, str]:
    """The texts in a sample's JSON, by the place that --labels would name."""
    parsed = _parsed(_text(own, "json"))
    return {f"json.{key}": value for key, value in parsed.items() if isinstance(value, str)} if isinstance(parsed, dict) else {}


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
