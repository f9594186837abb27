"""Read a shard that has ended its process before: in a process of its own, with limits, whose death costs rows and no more."""

import multiprocessing
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection

from jobs.pipeline.sources import EncodedImage, Shard, Source
from jobs.pipeline.sources.source import printable
from jobs.storage.failure import Damaged
from vit_actor.errors import UserError

MOST_BYTES = 3 << 30
"""Memory the process may take, or an eighth of the host's if that is less: many times what a sound shard needs."""
SILENT_SECONDS = 600.0  # Without an image for this long, reading is taken to hang


def read_apart(source: Source, shard: Shard) -> Iterator[tuple[int, EncodedImage]]:
    """As source.read for every image of the shard; once the process has died, each image that is left is an error.

    Raises the UserError or Damaged that source.read raises.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(source, shard, sending), daemon=True)
    process.start()
    sending.close()  # else the pipe stays open when the process has died
    following = 0
    try:
        while receiving.poll(SILENT_SECONDS):
            pair = receiving.recv()
            if pair is None:
                return
            if isinstance(pair, UserError | Damaged):
                raise pair
            yield pair
            following = pair[0] + 1
        why = f"gives no image for {SILENT_SECONDS:g} s"
    except (EOFError, OSError):  # the second where it died within an image
        why = "ends its process, for want of memory perhaps"
    finally:
        process.kill()
        process.join()
    yield from lost(shard, following, f"cannot be read: reading it {why}")


def lost(shard: Shard, first: int, reason: str) -> Iterator[tuple[int, EncodedImage]]:
    """An error for every image of a shard from the first-th on; where their number is not known, one for all of them."""
    paths, file, row = shard.payload.get("paths"), shard.payload.get("file", shard.id), shard.payload.get("first_row", 0)
    for ordinal in range(first, first + 1 if shard.images is None else shard.images):
        name = paths[ordinal] if paths else f"{file}#{row + ordinal}"  # as far as the shard alone tells what its source says
        yield ordinal, EncodedImage(printable(name), None, b"", reason)


def _send(source: Source, shard: Shard, sending: Connection) -> None:
    """The body of the process: (ordinal, image) as they are read, then None; a UserError instead of what it ended."""
    most = min(MOST_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        for ordinal, image in source.read(shard, lambda _: True):
            sending.send((ordinal, replace(image, data=bytes(image.data))))
        sending.send(None)
    except (UserError, Damaged) as error:
        sending.send(error)
