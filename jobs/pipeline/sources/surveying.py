"""List a data set, once, before work starts: what it holds, and its shards, packed to go to whoever reads them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import batched

import pyarrow as pa

from jobs.pipeline.sources.source import Shard, Source, Survey

SHARDS_TOGETHER = 16  # Shards packed together: names compress well beside each other, and unpacked they are 0.5 MB
type Unpacked = tuple[str, str, int | None]  # A shard's id, its payload as JSON, how many images it has


def surveyed(source: Source) -> Survey:
    """List the whole data set. Memory grows by its packed shards alone, 8 to 23 bytes an image file, as its name is.

    Raises UserError for an empty or unreadable data set and for labels that do not fit the checkpoint.
    """
    found: list[Survey] = []
    digest = hashlib.sha256()

    def shards() -> Iterator[Shard]:
        found.append((yield from source.shards()))

    packed = []
    for together in batched(shards(), SHARDS_TOGETHER):
        lines = "\n".join(map(_line, together)).encode()
        digest.update(lines + b"\n")
        packed.append(pa.compress(lines, "zstd", asbytes=True))
    digest.update(found[0].labels_by.encode())
    return replace(found[0], shards=packed, fingerprint=digest.hexdigest())


def unpacked(packed: bytes, number: int, share: tuple[int, int] = (0, 1)) -> list[Unpacked]:
    """The number-th shards that were packed together, as far as they are in a share.

    share: (index, of): every of-th shard of the data set, from the index-th on.
    """
    index, of = share
    lines = pa.input_stream(pa.py_buffer(packed), compression="zstd").read().decode().split("\n")
    own = (line.split("\t", 2) for line in lines[(index - number * SHARDS_TOGETHER) % of :: of])
    return [(name, payload, int(images) if images else None) for name, images, payload in own]


def _line(shard: Shard) -> str:
    """Neither an id nor JSON has a tab or a line's end in it."""
    return f"{shard.id}\t{'' if shard.images is None else shard.images}\t{json.dumps(shard.payload)}"
