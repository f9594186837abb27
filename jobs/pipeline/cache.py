"""Decoded chunks kept from one run to the next: one file each, found by what its pixels follow from.

A file is an Arrow stream of one row (Chunk.to_table) and its XXH3 checksum of 8 bytes. It is read by mapping it into memory.
Whatever is missing, cut off or damaged is decoded again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Self

import pyarrow as pa
import ray
import xxhash
from pyarrow.fs import LocalFileSystem
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.pipeline.chunk import Chunk, pixels_of
from jobs.storage.address import below, shown
from jobs.storage.failure import Failing, StorageError, patiently, storage_errors
from jobs.storage.files import listed, open_storage, read_whole, write_atomically
from vit_actor.preprocess import Preprocess

FORMAT = 2  # Raised when files or decoded pixels change: older files are then ignored
DECODERS = ("simplejpeg", "pillow", "torch")  # Packages whose versions decide what the pixels are


@dataclass(frozen=True)
class Cache:
    """The decoded chunks of one data set under one preprocessing, below a directory or URI that others may share."""

    uri: str
    key: str

    @classmethod
    def of(cls, uri: str, data_fingerprint: str, preprocess: Preprocess, class_names: Sequence[str]) -> Self:
        """data_fingerprint: Survey.fingerprint, so that other names, sizes or labels are another data set.

        class_names: the checkpoint's, since the labels that are kept are indices of them.
        """
        versions = {package: version(package) for package in DECODERS}
        text = json.dumps([FORMAT, data_fingerprint, asdict(preprocess), list(class_names), versions], sort_keys=True)
        return cls(uri, hashlib.sha256(text.encode()).hexdigest()[:32])

    def load(self, chunk: str) -> Chunk | None:
        """A chunk as it was kept; None where there is none, or none that is whole. Its pixels are the file's own memory."""
        row = self.load_row(chunk)
        return None if row is None else Chunk.from_table(row)

    def load_row(self, chunk: str, *, check: bool = True) -> pa.Table | None:
        """The row that is kept under a chunk's name, in the file's own memory; None as for `load`.

        check: whether to compare the checksum, which looks at every byte.
        """
        place = self._place(chunk)
        filesystem, path = open_storage(place)
        mapped = isinstance(filesystem, LocalFileSystem)
        try:
            with storage_errors(place, "read"):
                data = pa.memory_map(path).read_buffer() if mapped else read_whole(filesystem, path)
            body = data.slice(0, data.size - 8)
            if check and data.slice(data.size - 8).to_pybytes() != xxhash.xxh3_64_digest(body):
                return None
            row = pa.ipc.open_stream(body).read_all()
            return row if row["chunk"].to_pylist() == [chunk] else None
        except (StorageError, KeyError, ValueError, pa.ArrowException):
            return None

    def reference(self, chunk: Chunk) -> Chunk:
        """A chunk that has just been loaded, without its pixels: `with_pixels` finds them, so that they need not be copied."""
        filesystem, _ = open_storage(self.uri)
        if not isinstance(filesystem, LocalFileSystem):
            return chunk
        place = json.dumps([self.uri, self.key, ray.get_runtime_context().get_node_id()])
        return replace(chunk, pixels=chunk.pixels[:0], kept=place)

    def keep(self, chunk: Chunk) -> None:
        """Write a chunk, whole or not at all. Raises UserError where storage fails."""
        stream = pa.BufferOutputStream()
        table = replace(chunk, host="", cpu_seconds=0.0).to_table()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        body = stream.getvalue()
        filesystem, path = open_storage(self._place(chunk.name))
        write_atomically(filesystem, path, body, xxhash.xxh3_64_digest(body), durable=False)

    def _place(self, chunk: str) -> str:
        return below(self.uri, f"{self.key}/{chunk}.arrow")


def with_pixels(chunk: Chunk) -> Chunk:
    """A chunk with the pixels that it only says the place of: from this host's disk, else from the host that found them.

    Raises Failing where they are gone meanwhile.
    """
    if chunk.kept is None:
        return chunk
    uri, key, node = json.loads(chunk.kept)
    return replace(chunk, pixels=pixels_of(patiently(partial(_kept_row, Cache(uri, key), chunk, node), uri)))


def _kept_row(cache: Cache, chunk: Chunk, node: str) -> pa.Table:
    row = cache.load_row(chunk.name, check=node != ray.get_runtime_context().get_node_id())
    if row is None:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        row = ray.get(ray.remote(Cache.load_row).options(num_cpus=0, scheduling_strategy=there).remote(cache, chunk.name))
    if row is None:
        where = shown(cache.uri)
        raise Failing(f"{where}: a chunk is gone or damaged that was there a moment ago; leave the cache alone in a run")
    return row


def stored_bytes(uri: str) -> int:
    """Bytes of all that is kept below a directory or URI. Raises UserError where storage fails."""
    return sum(file.size or 0 for file in listed(uri, recursive=True))
