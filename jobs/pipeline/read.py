"""Read and decode shards: rows of shards in, rows of chunks out."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache as remember
from itertools import count, groupby
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from jobs.pipeline.cache import Cache
from jobs.pipeline.chunk import CHUNK_IMAGES, Chunk, chunk_name
from jobs.pipeline.commit import Predictions
from jobs.pipeline.decode import DecodeError, decode
from jobs.pipeline.ledger import QUARANTINE_AFTER, SHARD_ATTEMPTS, Reading
from jobs.pipeline.read_apart import lost, read_apart
from jobs.pipeline.sandbox import Sandbox, TimeLimit
from jobs.pipeline.sources import EncodedImage, Shard, Source
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

Decode = Callable[[bytes | memoryview, Preprocess, np.ndarray], None]


def read_chunks(
    shards: pa.Table,
    *,
    source: Source,
    preprocess: Preprocess,
    predictions: Predictions,
    cache: Cache | None,
    ledger: Any,
    resume: bool,
) -> Iterator[pa.Table]:
    """Rows of shards -> rows of decoded chunks (Chunk.to_table), each as soon as it is full.

    On resume, chunks that are already committed are neither read nor decoded. When the run is draining, nothing more is.
    Chunks that are in the cache are taken from there, and others are put there.
    """
    for row in shards.to_pylist():
        shard = Shard(row["id"], json.loads(row["payload"]), row["images"])
        attempt = ray.get(ledger.begin_shard.remote(shard.id))
        if attempt is None:
            return
        wanted = _Wanted(shard, predictions.is_committed if resume else lambda chunk: False)
        for chunk in _from_cache(cache, shard, wanted):
            ledger.done_reading.remote(chunk.name, from_cache=len(chunk.image_ids))
            yield chunk.to_table()
        if wanted.whole:
            ledger.shard_read.remote(shard.id)
            continue
        images = _images(source, shard, wanted, attempt)
        for k, numbered in groupby(images, key=lambda pair: pair[0] // CHUNK_IMAGES):
            name = chunk_name(shard.id, k)
            how = ray.get(ledger.begin_reading.remote(name))
            if how is Reading.STOP:
                return
            limited: Sandbox | TimeLimit = Sandbox() if how is Reading.SANDBOXED else TimeLimit()
            with limited:
                decoded = decode_chunk(name, (image for _, image in numbered), preprocess, limited.decode)
            if cache and decoded.lasting and how is Reading.ORDINARY:
                _keep(cache, decoded, ledger)
            ledger.done_reading.remote(name)
            yield decoded.to_table()
            del decoded  # Ray has its copy, and the memory is free for the next chunk
        if wanted.passed_over:
            ledger.passed_over.remote(len(wanted.passed_over))
        ledger.shard_read.remote(shard.id)


def _images(source: Source, shard: Shard, wanted: _Wanted, attempt: int) -> Iterator[tuple[int, EncodedImage]]:
    """The wanted images of a shard: after deaths of the process that read it, read in another one, and at last not at all."""
    if attempt <= QUARANTINE_AFTER:
        return source.read(shard, wanted)
    reason = f"cannot be read: reading it ended the process {attempt - 1} times"
    images = read_apart(source, shard) if attempt <= SHARD_ATTEMPTS else lost(shard, 0, reason)
    return (pair for pair in images if wanted(pair[0]))


def _from_cache(cache: Cache | None, shard: Shard, wanted: _Wanted) -> Iterator[Chunk]:
    """The chunks of a shard that are wanted and in the cache; where their number is not known, up to the first that is not."""
    if cache is None:
        return
    for k in count() if shard.images is None else range(-(-shard.images // CHUNK_IMAGES)):
        name, began = chunk_name(shard.id, k), time.process_time()
        if not wanted.chunk(name):
            continue
        chunk = cache.load(name)
        if chunk is not None:
            wanted.not_any_more(name, last=shard.images is None and len(chunk.image_ids) < CHUNK_IMAGES)
            chunk = replace(cache.reference(chunk), host=socket.gethostname())
            yield replace(chunk, cpu_seconds=time.process_time() - began)
        elif shard.images is None:
            return


def _keep(cache: Cache, chunk: Chunk, ledger: Any) -> None:
    """Put a chunk into the cache, if there is room; where it cannot be written, the run goes on without the cache."""
    if not ray.get(ledger.cache_takes.remote(chunk.pixels.nbytes)):
        return
    try:
        cache.keep(chunk)
    except UserError as error:
        ledger.cache_off.remote(str(error))


class _Wanted:
    """Which images of a shard are to be read, by their ordinal: those of chunks that are not committed.

    passed_over: the ordinals that were asked for and are.
    whole: whether all chunks of the shard are known to be there without reading it.
    """

    def __init__(self, shard: Shard, is_committed: Callable[[str], bool]) -> None:
        self._shard = shard
        self._is_committed = remember(is_committed)
        self.passed_over: set[int] = set()
        self._had: set[str] = set()
        self.whole = self._committed_any = False

    def chunk(self, name: str) -> bool:
        """Whether a chunk is to be read."""
        committed = self._is_committed(name)
        self._committed_any = self._committed_any or committed
        return not committed and name not in self._had

    def not_any_more(self, name: str, *, last: bool) -> None:
        """A chunk has been had from elsewhere. last: it is known to be the last one of its shard."""
        self._had.add(name)
        known = self._shard.images is not None and len(self._had) * CHUNK_IMAGES >= self._shard.images
        self.whole = known or (last and not self._committed_any)

    def __call__(self, ordinal: int) -> bool:
        if chunk_name(self._shard.id, ordinal // CHUNK_IMAGES) in self._had:
            return False
        if self._is_committed(chunk_name(self._shard.id, ordinal // CHUNK_IMAGES)):
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
    decoded, lasting = 0, True
    for image in images:
        error = image.error
        lasting = lasting and error is None
        if error is None:
            try:
                decoder(image.data, preprocess, pixels[decoded])
                decoded += 1
            except DecodeError as failure:
                error = str(failure)
        ids.append(image.image_id)
        labels.append(image.label)
        errors.append(error)
    return Chunk(name, ids, labels, errors, pixels[:decoded], socket.gethostname(), time.process_time() - began, lasting=lasting)


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
