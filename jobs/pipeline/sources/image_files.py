"""Shards of image files: cut from a listing, read back a few files at a time."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import batched
from typing import NamedTuple

from jobs.pipeline.sources.in_order import in_order
from jobs.pipeline.sources.listing import entries
from jobs.pipeline.sources.source import EncodedImage, Shard, printable, shard_id, view
from jobs.storage.address import below, shown
from jobs.storage.failure import GONE_ROW, REFUSED_ROW, Failing, Gone, NoCredentials, Refused, patiently
from jobs.storage.files import open_storage, read_whole

MAX_FILE_BYTES = 256 * 2**20  # A larger file is no photograph, and one is enough to fill a worker's memory
READ_AHEAD = 8  # Files a thread reads in one go: handing them over one by one costs more than reading them from a page cache


class ImageFile(NamedTuple):
    """path: below the data set's folder. size: in bytes."""

    path: str
    label: int | None
    size: int


def cut_shards(images: Iterable[ImageFile], images_per_shard: int) -> Iterator[Shard]:
    """Images in listing order -> shards of up to images_per_shard of them, named by the folder of the first."""
    for position, part in enumerate(batched(images, images_per_shard)):
        paths, labels, sizes = (list(column) for column in zip(*part, strict=True))
        place = paths[0].rpartition("/")[0] or "images"
        yield Shard(shard_id(place, position), {"paths": paths, "labels": labels, "sizes": sizes}, len(part))


def _names(folder: str, parent: str) -> set[str] | None:
    """What a folder of the data set holds now; None where it is gone."""
    try:
        return {entry.name for entry in entries(below(folder, parent) if parent else folder)}
    except Gone:
        return None


def _is_gone(path: str, listed: Callable[[str], set[str] | None]) -> bool:
    """Whether the place that a file was in is there as before, and the file is not in it: else it is storage that hides it."""
    parent, _, name = path.rpartition("/")
    names = listed(parent)
    if names is None:
        return bool(parent) and _is_gone(parent, listed)
    return name not in names and bool(names or parent)


def read_files(folder: str, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
    """The wanted files of a shard made by cut_shards, in order. folder: address the paths are relative to.

    A file that is gone, has another size, or is refused alone is an error. Raises Refused where no other can be read now, and
    Failing where files are gone because their folder is.
    """
    filesystem, base = open_storage(folder)
    paths, labels, sizes = (shard.payload[name] for name in ("paths", "labels", "sizes"))

    def read(ordinals: tuple[int, ...]) -> list[tuple[int, EncodedImage | Refused]]:
        return [(ordinal, read_one(paths[ordinal], labels[ordinal], sizes[ordinal])) for ordinal in ordinals]

    def read_one(path: str, label: int | None, listed: int) -> EncodedImage | Refused:
        failed = partial(EncodedImage, printable(path), label, b"")
        if not path.isascii() and printable(path) != path:
            return failed("cannot be read: its name is not valid UTF-8")
        try:
            data = patiently(partial(read_whole, filesystem, f"{base}/{path}", MAX_FILE_BYTES), below(folder, path), "read")
        except Gone:
            return failed(GONE_ROW if listed else "cannot be read: it is empty, or a link that leads nowhere")
        except NoCredentials:
            raise
        except Refused as refused:
            return refused
        if data is None:
            return failed(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        if data.size != listed:
            return failed(f"has {data.size:,} bytes, had {listed:,} when the run listed it")
        return EncodedImage(printable(path), label, view(data))

    readable, refused, gone, tried = None, None, list[str](), set[int]()
    for part in in_order(read, batched((i for i in range(len(paths)) if wanted(i)), READ_AHEAD)):
        for ordinal, image in part:
            tried.add(ordinal)
            if isinstance(image, Refused):
                refused = image
                yield ordinal, EncodedImage(printable(paths[ordinal]), labels[ordinal], b"", f"{REFUSED_ROW} ({image})")
                continue
            if image.error == GONE_ROW:
                gone.append(paths[ordinal])
            else:
                readable = ordinal
            yield ordinal, image
    listed = cache(lambda parent: _names(folder, parent))
    if hidden := [path for path in gone if not _is_gone(path, listed)]:
        raise Failing(f"{shown(below(folder, hidden[0]))}: its folder is gone, or hides it; is the disk still mounted?")
    if refused is not None:
        witness = next(iter({*range(len(paths))} - tried), None) if readable is None else readable
        if witness is None or isinstance(read((witness,))[0][1], Refused):
            raise refused
