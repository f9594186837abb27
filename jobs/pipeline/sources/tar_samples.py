"""Samples of a WebDataset tar: neighbouring members whose names agree up to the first dot, an image and its labels."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from jobs.pipeline.sources.image_files import MAX_FILE_BYTES
from jobs.pipeline.sources.listing import HIDDEN, LeftOut, is_hidden, is_image
from jobs.pipeline.sources.source import printable
from jobs.pipeline.sources.tar_members import Member
from jobs.storage.failure import Damaged

MEMBERS = ("cls", "class_id", "label", "json", "txt")  # What follows the last dot of a member that may be a label
MAX_LABEL_BYTES = 2**20
MOST_IMAGES = 16  # Of one sample: more of them are images of their own, whose names have dots in them
MAX_SAMPLE_BYTES = 256 * 2**20  # Of one sample's images together, which are in memory at once


@dataclass(frozen=True)
class Sample:
    """An image of a tar. member: its name there, "" for a damaged rest. size: in bytes. data: empty if not wanted.

    alone: whether only a type follows the first dot of its name. own: members that may be its labels, by what follows their name.
    """

    image_id: str
    member: str = ""
    size: int = 0
    alone: bool = False
    data: bytes = b""
    error: str | None = None
    own: dict[str, bytes] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The member's name up to its last dot."""
        return self.member.rpartition(".")[0]


def samples(tar: str, members: Iterable[Member], wanted: Callable[[int], bool], beside: LeftOut) -> Iterator[Sample]:
    """The images of a tar in its order. A damaged rest is one last error, with the tar's own name as its id.

    A sample's image is the member with nothing but a type behind the first dot (x.jpg, not the x.seg.png beside it), or those
    that there are where there is none such. The second image of one name gets an id that ends in #2, and so on.
    wanted: by ordinal, whose data is read. beside: is told members that are no sample's image or label.
    """
    key, images, labels = "", list[Sample](), dict[str, dict[str, bytes]]()
    count, seen = 0, Counter[str]()  # images of the samples before; how often each name was there
    try:
        for member in members:
            folder, slash, last = member.name.rpartition("/")
            if is_hidden(last) or any(is_hidden(part, True) for part in folder.split("/") if part not in (".", "..")):
                beside.add(HIDDEN, member.name)
                continue
            stem, _, kind = member.name.rpartition(".")
            common = folder + slash + last.partition(".")[0]
            if common != key:
                yield from _labelled(images, key, labels, beside)
                count += len(images)
                key, images, labels = common, [], {}
            if not is_image(member.name):
                if kind.lower() in MEMBERS and member.size <= MAX_LABEL_BYTES and not member.lost:
                    labels.setdefault(stem, {})[kind.lower()] = member.read()
                else:
                    beside.add_file(member.name)
                continue
            alone = stem == common
            if images and images[0].alone != alone:  # masks or the like
                for mask in images if alone else [Sample("", member.name)]:
                    beside.add("images beside a sample's own", mask.member)
                images = [] if alone else images
                if not alone:
                    continue
            if len(images) == MOST_IMAGES:  # names with dots in them, and no sample
                *ready, latest = images
                yield from (_with_own(image, key, labels) for image in ready)
                for image in ready:
                    if image.stem != latest.stem:
                        labels.pop(image.stem, None)
                count, images = count + len(ready), [latest]
            seen[member.name] += 1
            repeat = f"#{seen[member.name]}" if seen[member.name] > 1 else ""
            image_id = printable(f"{tar}/{member.name}{repeat}")
            images.append(Sample(image_id, member.name, member.size, alone, error="the tar ends inside this image"))
            images[-1] = _read(images, member, wanted(count + len(images) - 1))
    except Damaged as damage:
        found = count + len(images)
        images.append(Sample(printable(tar), error=f"the tar is damaged: {damage}; {found} images before that"))
    yield from _labelled(images, key, labels, beside)


def _labelled(images: list[Sample], key: str, labels: dict[str, dict[str, bytes]], beside: LeftOut) -> Iterator[Sample]:
    """The images of one sample with their label members, which are by name up to the last dot. beside: is told those of none."""
    for stem in labels.keys() - ({key, *(image.stem for image in images)} if images else set()):
        for kind in labels[stem]:
            beside.add(f".{kind} members without an image of that name beside them", f"{stem}.{kind}")
    yield from (_with_own(image, key, labels) for image in images)


def _with_own(image: Sample, key: str, labels: dict[str, dict[str, bytes]]) -> Sample:
    return replace(image, own=labels.get(image.stem) or labels.get(key, {}))


def _read(images: list[Sample], member: Member, wanted: bool) -> Sample:
    """The last of a sample's images so far, with its bytes if it is wanted."""
    error = member.lost
    if not error and member.size > MAX_FILE_BYTES:
        error = f"larger than {MAX_FILE_BYTES >> 20} MiB"
    if not error and sum(image.size for image in images) > MAX_SAMPLE_BYTES:
        error = f"the sample's images together are larger than {MAX_SAMPLE_BYTES >> 20} MiB"
    return replace(images[-1], data=member.read() if wanted and not error else b"", error=error)
