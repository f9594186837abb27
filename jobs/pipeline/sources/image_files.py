"""Shards of image files: cut from a listing, read back a few files at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import batched
from typing import NamedTuple

from jobs.pipeline.sources.in_order import in_order
from jobs.pipeline.sources.listing import join, open_place
from jobs.pipeline.sources.source import EncodedImage, Shard, printable, shard_id, view
from jobs.storage import first_line

MAX_FILE_BYTES = 256 * 2**20
"""A larger file is no photograph, and one is enough to fill a worker's memory."""

READ_AHEAD = 8
"""Files a thread reads in one go: handing them over one by one costs more than reading them from a page cache."""


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


def read_files(folder: str, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
    """The wanted files of a shard made by cut_shards, in order. folder: URI the paths are relative to."""
    filesystem, base = open_place(folder)
    paths, labels, sizes = (shard.payload[name] for name in ("paths", "labels", "sizes"))

    def read(ordinals: tuple[int, ...]) -> list[tuple[int, EncodedImage]]:
        return [(ordinal, read_one(paths[ordinal], labels[ordinal], sizes[ordinal])) for ordinal in ordinals]

    def read_one(path: str, label: int | None, listed: int) -> EncodedImage:
        image_id = printable(path)
        try:
            with filesystem.open_input_file(join(base, path)) as file:
                size = file.size()
                if size > MAX_FILE_BYTES:
                    return EncodedImage(image_id, label, b"", f"larger than {MAX_FILE_BYTES >> 20} MiB")
                if size != listed:
                    return EncodedImage(image_id, label, b"", f"has {size:,} bytes, had {listed:,} when the run listed it")
                return EncodedImage(image_id, label, view(file.read_buffer()))
        except UnicodeEncodeError:
            return EncodedImage(image_id, label, b"", "cannot be read: its name is not valid UTF-8")
        except OSError as error:
            reason = "the file is gone" if isinstance(error, FileNotFoundError) else first_line(error)
            return EncodedImage(image_id, label, b"", f"cannot be read: {reason}")

    for part in in_order(read, batched((i for i in range(len(paths)) if wanted(i)), READ_AHEAD)):
        yield from part
