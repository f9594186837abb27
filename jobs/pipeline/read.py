"""Read and decode shards: rows of shards in, rows of chunks out."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from jobs.ledger import Reading
from jobs.pipeline.chunk import CHUNK_IMAGES, Chunk, chunk_name
from jobs.pipeline.commit import Predictions
from jobs.pipeline.decode import DecodeError, decode
from jobs.pipeline.sandbox import Sandbox, TimeLimit
from jobs.pipeline.sources import EncodedImage, Shard, Source
from vit_actor.preprocess import Preprocess

Decode = Callable[[bytes | memoryview, Preprocess, np.ndarray], None]


def read_chunks(
    shards: pa.Table, *, source: Source, preprocess: Preprocess, predictions: Predictions, ledger: Any, resume: bool
) -> Iterator[pa.Table]:
    """Rows of shards -> rows of decoded chunks (Chunk.to_table), each as soon as it is full.

    On resume, chunks that are already committed are neither read nor decoded. When the run is draining, nothing more is.
    """
    for row in shards.to_pylist():
        shard = Shard(row["id"], json.loads(row["payload"]))
        wanted = _Wanted(shard, predictions.is_committed if resume else lambda chunk: False)
        for k, numbered in groupby(source.read(shard, wanted), key=lambda pair: pair[0] // CHUNK_IMAGES):
            name = chunk_name(shard, k)
            how = ray.get(ledger.begin_reading.remote(name))
            if how is Reading.STOP:
                return
            limited: Sandbox | TimeLimit = Sandbox() if how is Reading.CAREFUL else TimeLimit()
            with limited:
                decoded = decode_chunk(name, (image for _, image in numbered), preprocess, limited.decode).to_table()
            ledger.done_reading.remote(name)
            yield decoded
            del decoded  # Ray has its copy, and the memory is free for the next chunk
        if wanted.passed_over:
            ledger.passed_over.remote(len(wanted.passed_over))


class _Wanted:
    """Which images of a shard are to be read, by their ordinal: those of chunks that are not committed.

    passed_over: the ordinals that were asked for and are.
    """

    def __init__(self, shard: Shard, is_committed: Callable[[str], bool]) -> None:
        self._shard = shard
        self._is_committed = cache(is_committed)
        self.passed_over: set[int] = set()

    def __call__(self, ordinal: int) -> bool:
        if self._is_committed(chunk_name(self._shard, ordinal // CHUNK_IMAGES)):
            self.passed_over.add(ordinal)
            return False
        return True


def decode_chunk(name: str, images: Iterable[EncodedImage], preprocess: Preprocess, decoder: Decode = decode) -> Chunk:
    """Decode up to CHUNK_IMAGES images as they arrive, each straight to its place; what fails is an error, not a gap."""
    began = time.process_time()
    pixels = _room_for_pixels(preprocess.shape)
    ids: list[str] = []
    labels: list[int | None] = []
    errors: list[str | None] = []
    decoded = 0
    for image in images:
        error = image.error
        if error is None:
            try:
                decoder(image.data, preprocess, pixels[decoded])
                decoded += 1
            except DecodeError as failure:
                error = str(failure)
        ids.append(image.image_id)
        labels.append(image.label)
        errors.append(error)
    return Chunk(name, ids, labels, errors, pixels[:decoded], socket.gethostname(), time.process_time() - began)


_last_room: list[np.ndarray] = []


def _room_for_pixels(shape: tuple[int, int, int]) -> np.ndarray:
    """Memory for a chunk's pixels, uint8 (CHUNK_IMAGES, *shape): the last chunk's again once nothing refers to that.

    Fresh memory would cost a tenth of the decoding, since the kernel clears each page when it is first touched.
    """
    room = _last_room.pop() if _last_room else None
    if room is None or room.shape[1:] != shape or sys.getrefcount(room) > 2:  # this name's and the call's own
        room = np.empty((CHUNK_IMAGES, *shape), np.uint8)
    _last_room.append(room)
    return room
