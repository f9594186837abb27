"""A chunk: up to 512 images of one shard; the unit of work, of retry and of commit.

A chunk is one row of the Ray dataset, so that Ray can neither split nor merge one: what is read together is decoded,
classified and committed together, under a name that a second attempt gives again.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

CHUNK_IMAGES = 512
"""Images a chunk: 77 MB of 224x224x3 uint8. Smaller ones leave the device idle between calls (96% busy at 512, 74% at
256), larger ones make a lost host cost more and crowd the object store."""


def chunk_name(shard: str, k: int) -> str:
    """The name of the k-th chunk of a shard, by its id; the same whenever and wherever the shard is read."""
    return f"{shard}.{k:05d}"


@dataclass(frozen=True)
class Chunk:
    """Decoded images of one chunk.

    image_ids, labels, errors: one entry an image; label None where unknown, error None where the image was decoded.
    pixels: uint8 (decoded images, height, width, 3), in order.
    host, cpu_seconds: where it was read and decoded, and the CPU time that took.
    kept: where a mesh finds the pixels, if they are not here (Cache.reference).
    lasting: whether reading it again would give the same, as far as it is known: false where storage failed. Not in a table.
    """

    name: str
    image_ids: list[str]
    labels: list[int | None]
    errors: list[str | None]
    pixels: np.ndarray
    host: str = ""
    cpu_seconds: float = 0.0
    kept: str | None = None
    lasting: bool = True

    def to_table(self) -> pa.Table:
        """One row; the pixels are wrapped, not copied."""
        ends = pa.py_buffer(np.array([0, self.pixels.nbytes], np.int64))
        pixels = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(np.ascontiguousarray(self.pixels))])
        return pa.table(
            {
                "chunk": pa.array([self.name]),
                "image_ids": pa.array([self.image_ids], pa.list_(pa.string())),
                "labels": pa.array([self.labels], pa.list_(pa.int32())),
                "errors": pa.array([self.errors], pa.list_(pa.string())),
                "shape": pa.array([list(self.pixels.shape)], pa.list_(pa.int64())),
                "host": pa.array([self.host]),
                "cpu_seconds": pa.array([self.cpu_seconds]),
                "kept": pa.array([self.kept], pa.string()),
                "pixels": pixels,
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """From one row; the pixels are a read-only view of the table's memory (indexing an Arrow binary would copy)."""
        if table.num_rows != 1:
            raise ValueError(f"a chunk is one row, not {table.num_rows}")
        return cls(
            name=table["chunk"][0].as_py(),
            image_ids=_texts(table["image_ids"]),
            labels=table["labels"][0].as_py(),
            errors=_texts(table["errors"]),
            pixels=pixels_of(table),
            host=table["host"][0].as_py(),
            cpu_seconds=table["cpu_seconds"][0].as_py(),
            kept=table["kept"][0].as_py(),
        )

    def without(self, lost: set[int], error: str) -> Self:
        """The chunk with these decoded images (by their place in `pixels`) turned into errors."""
        if not lost:
            return self
        decoded = [i for i, failure in enumerate(self.errors) if failure is None]
        errors = list(self.errors)
        for place in lost:
            errors[decoded[place]] = error
        return replace(self, errors=errors, pixels=np.delete(self.pixels, sorted(lost), axis=0))


def pixels_of(table: pa.Table) -> np.ndarray:
    """The pixels of a row, uint8 (decoded images, height, width, 3), in the table's own memory."""
    column = table["pixels"].chunk(0)
    _, ends, data = column.buffers()
    start, end = np.frombuffer(ends, np.int64)[column.offset : column.offset + 2]
    pixels = np.frombuffer(data, np.uint8)[start:end] if end > start else np.empty(0, np.uint8)
    return pixels.reshape(table["shape"][0].as_py())


def _texts(column: pa.ChunkedArray) -> list[Any]:
    """The one list of texts in a column: by way of NumPy, which takes a tenth of the time of as_py."""
    found: list[Any] = column.chunk(0).flatten().to_numpy(zero_copy_only=False).tolist()
    return found
