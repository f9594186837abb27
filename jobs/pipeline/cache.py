"""Decoded chunks kept from one run to the next: one file each, found by what its pixels follow from.

A file is an Arrow stream of one row (Chunk.to_table) and eight bytes of checksum. It is read by mapping it into memory.
Whatever is missing, cut off or damaged is decoded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import ray
from pyarrow.fs import FileSelector, LocalFileSystem
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.pipeline.chunk import Chunk
from jobs.pipeline.sources.listing import open_place
from jobs.storage import shown, storage_errors, write_atomically
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

FORMAT = 1
"""Raised when files of earlier versions can no longer be read or hold other pixels."""

DECODERS = ("simplejpeg", "pillow", "torch")
"""Packages whose versions decide what the pixels are."""

BLOCK = 512
"""Words that are summed up by themselves, so that the checksum notices where a page is."""


@dataclass(frozen=True)
class Cache:
    """The decoded chunks of one data set under one preprocessing, below a directory or URI that others may share."""

    uri: str
    key: str

    @classmethod
    def of(cls, uri: str, data_fingerprint: str, preprocess: Preprocess, class_names: Sequence[str]) -> Cache:
        """data_fingerprint: Survey.fingerprint, so that other names, sizes or labels are another data set.

        class_names: the checkpoint's, since the labels that are kept are indices of them.
        """
        versions = {package: version(package) for package in DECODERS}
        text = json.dumps([FORMAT, data_fingerprint, asdict(preprocess), list(class_names), versions], sort_keys=True)
        return cls(uri, hashlib.sha256(text.encode()).hexdigest()[:32])

    def load(self, chunk: str, *, check: bool = True) -> Chunk | None:
        """A chunk as it was kept; None where there is none, or none that is whole. Its pixels are the file's own memory.

        check: whether to compare the checksum, which looks at every byte.
        """
        filesystem, path = open_place(self.uri)
        path = f"{path}/{self.key}/{chunk}.arrow"
        try:
            if isinstance(filesystem, LocalFileSystem):
                data = pa.memory_map(path).read_buffer()
            else:
                with filesystem.open_input_file(path) as file:
                    data = file.read_buffer()
            body = data.slice(0, data.size - 8)
            if check and data.slice(data.size - 8).to_pybytes() != checksum(body):
                return None
            found = Chunk.from_table(pa.ipc.open_stream(body).read_all())
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return None
        return found if found.name == chunk else None

    def reference(self, chunk: Chunk) -> Chunk:
        """A chunk that has just been loaded, without its pixels: `with_pixels` finds them, so that they need not be copied."""
        filesystem, _ = open_place(self.uri)
        if not isinstance(filesystem, LocalFileSystem):
            return chunk
        place = json.dumps([self.uri, self.key, ray.get_runtime_context().get_node_id()])
        return replace(chunk, pixels=chunk.pixels[:0], kept=place)

    def keep(self, chunk: Chunk) -> None:
        """Write a chunk, whole or not at all. Raises UserError where storage fails."""
        filesystem, path = open_place(self.uri)
        stream = pa.BufferOutputStream()
        table = replace(chunk, host="", cpu_seconds=0.0).to_table()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        body = stream.getvalue()
        with storage_errors(self.uri):
            write_atomically(filesystem, f"{path}/{self.key}/{chunk.name}.arrow", body, checksum(body), durable=False)


def with_pixels(chunk: Chunk) -> Chunk:
    """A chunk with the pixels that it only says the place of: from this host's disk, else from the host that found them.

    Raises UserError where they are gone meanwhile.
    """
    if chunk.kept is None:
        return chunk
    uri, key, node = json.loads(chunk.kept)
    cache = Cache(uri, key)
    found = cache.load(chunk.name, check=node != ray.get_runtime_context().get_node_id())
    if found is None:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        found = ray.get(ray.remote(_load).options(num_cpus=0, scheduling_strategy=there).remote(cache, chunk.name))
    if found is None:
        raise UserError(f"{shown(uri)}: a chunk is gone or damaged that was there a moment ago; leave the cache alone in a run")
    return replace(chunk, pixels=found.pixels)


def _load(cache: Cache, chunk: str) -> Chunk | None:
    return cache.load(chunk)


def stored_bytes(uri: str) -> int:
    """Bytes of all that is kept below a directory or URI. Raises UserError where storage fails."""
    filesystem, path = open_place(uri)
    with storage_errors(uri):
        return sum(file.size or 0 for file in filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True)))


def checksum(data: pa.Buffer) -> bytes:
    """Eight bytes that change with any bit and with the order of blocks: at the speed of memory, which CRCs do not reach."""
    words = np.frombuffer(data, np.uint64, data.size // 8)
    blocks = words[: len(words) // BLOCK * BLOCK].reshape(-1, BLOCK).sum(axis=1, dtype=np.uint64)
    places = np.arange(len(blocks), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    rest = hashlib.blake2b(data.slice(len(blocks) * BLOCK * 8).to_pybytes(), digest_size=8).digest()
    total = (blocks * places).sum(dtype=np.uint64) ^ np.frombuffer(rest, np.uint64)[0]
    return int(total).to_bytes(8, "little")
