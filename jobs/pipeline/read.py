"""Read and decode shards: rows of shards in, rows of chunks out."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache as remember
from itertools import count, groupby, islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from jobs.pipeline.attempts import QUARANTINE_AFTER
from jobs.pipeline.cache import Cache
from jobs.pipeline.chunk import CHUNK_IMAGES, Chunk, chunk_name
from jobs.pipeline.commit import Predictions
from jobs.pipeline.decode import Decode, DecodeError, decode
from jobs.pipeline.ledger import SHARD_ATTEMPTS, tell_ledger
from jobs.pipeline.read_apart import lost, read_apart
from jobs.pipeline.sandbox import sandboxed, time_limited
from jobs.pipeline.sources import EncodedImage, Shard, Source, address_of
from jobs.storage.address import shown
from jobs.storage.failure import REFUSED_ROW, Damaged, Failing, patiently
from jobs.storage.files import forget_cached
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess


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
    tell_ledger(ledger)
    for row in shards.to_pylist():
        shard = Shard(row["id"], json.loads(row["payload"]), row["images"])
        attempt = ray.get(ledger.begin_shard.remote(shard.id))
        if attempt is None:
            return
        wanted = _Wanted(shard, predictions.is_committed if resume else lambda chunk: False)
        for chunk in _from_cache(cache, shard, wanted):
            ledger.done_reading.remote(chunk.name, len(chunk.image_ids), from_cache=True)
            yield chunk.to_table()
        if wanted.whole:
            ledger.shard_read.remote(shard.id, wanted.images)
            continue
        chunks = _Chunks(source, shard, wanted, attempt, preprocess, ledger)
        while decoded := patiently(chunks.next, shown(source.folder)):
            if cache and decoded.lasting and not chunks.sandboxed:
                _keep(cache, decoded, ledger)
            ledger.done_reading.remote(decoded.name, len(decoded.image_ids))
            yield decoded.to_table()
            del decoded  # Ray has its copy, and the memory is free for the next chunk
        if chunks.stopped:
            return
        if wanted.passed_over:
            ledger.passed_over.remote(len(wanted.passed_over))
        ledger.shard_read.remote(shard.id, wanted.images)


class _Chunks:
    """The chunks of a shard that are wanted, read and decoded one after the other.

    An image that cannot be decoded is read once more, past the page cache. If that gives other bytes, storage is failing, and
    reading goes on again with the chunk. sandboxed: whether the latest one was. stopped: whether the run is draining.
    """

    def __init__(
        self, source: Source, shard: Shard, wanted: "_Wanted", attempt: int, preprocess: Preprocess, ledger: Any
    ) -> None:
        self._source, self._shard, self._wanted, self._attempt = source, shard, wanted, attempt
        self._preprocess, self._ledger = preprocess, ledger
        self._groups: Iterator[tuple[int, Iterator[tuple[int, EncodedImage]]]] | None = None
        self._following = 0
        self._begun: tuple[str, int | None] = ("", None)
        self.sandboxed = self.stopped = False

    def next(self) -> Chunk | None:
        """The next chunk; None after the last one, or when the run is draining. Raises StorageError; can be asked again."""
        try:
            return self._next()
        except Damaged as damage:  # a file that could be read when it was listed
            self._groups = None
            raise Failing(f"{shown(self._source.folder)}: {self._shard.id}: {damage}") from None
        except Failing:
            self._groups = None
            raise

    def _next(self) -> Chunk | None:
        if self._groups is None:
            first = self._following
            images = _images(self._source, self._shard, lambda ordinal: ordinal >= first and self._wanted(ordinal), self._attempt)
            self._groups = groupby(images, key=lambda pair: pair[0] // CHUNK_IMAGES)
        k, numbered = next(self._groups, (0, None))
        if numbered is None:
            return None
        name = chunk_name(self._shard.id, k)
        if self._begun[0] != name:
            self._begun = name, ray.get(self._ledger.begin_reading.remote(name))
        attempt = self._begun[1]
        if attempt is None:
            self.stopped = True
            return None
        self.sandboxed = attempt > QUARANTINE_AFTER
        with sandboxed() if self.sandboxed else time_limited() as decoder:
            chunk, failed = decode_chunk(name, numbered, self._preprocess, decoder)
        self._read_again(failed)
        self._following = (k + 1) * CHUNK_IMAGES
        return chunk

    def _read_again(self, failed: dict[int, EncodedImage]) -> None:
        """Raise Failing where an image that is to be an error is another one when it is read again."""
        doubtful = {ordinal for ordinal, image in failed.items() if not (image.error or "").startswith(REFUSED_ROW)}
        if not doubtful or self._attempt > QUARANTINE_AFTER:
            return
        for place in {address_of(self._source, self._shard, ordinal) for ordinal in doubtful}:
            forget_cached(place)
        again = self._source.read(self._shard, frozenset(doubtful).__contains__)
        for ordinal, image in islice(again, len(doubtful)):
            if image != failed.get(ordinal):
                where = shown(address_of(self._source, self._shard, ordinal))
                raise Failing(f"{where}: {image.image_id}: two reads gave different bytes")
            doubtful.discard(ordinal)
        if doubtful:
            where = shown(address_of(self._source, self._shard, min(doubtful)))
            raise Failing(f"{where}: two reads gave different images")


def _images(source: Source, shard: Shard, wanted: Callable[[int], bool], attempt: int) -> Iterator[tuple[int, EncodedImage]]:
    """The wanted images of a shard: after deaths of the process that read it, read in another one, and at last not at all."""
    if attempt <= QUARANTINE_AFTER:
        return source.read(shard, wanted)
    reason = f"cannot be read: reading it ended the process {attempt - 1} times"
    images = read_apart(source, shard) if attempt <= SHARD_ATTEMPTS else lost(shard, 0, reason)
    return (pair for pair in images if wanted(pair[0]))


def _from_cache(cache: Cache | None, shard: Shard, wanted: "_Wanted") -> Iterator[Chunk]:
    """The chunks of a shard that are wanted and in the cache; where their number is not known, up to the first that is not."""
    if cache is None:
        return
    for k in count() if shard.images is None else range(-(-shard.images // CHUNK_IMAGES)):
        name, began = chunk_name(shard.id, k), time.process_time()
        if not wanted.chunk(name):
            continue
        chunk = cache.load(name)
        if chunk is not None:
            wanted.not_any_more(name, len(chunk.image_ids), last=shard.images is None and len(chunk.image_ids) < CHUNK_IMAGES)
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
    images: how many the shard has, as far as it has been asked for.
    """

    def __init__(self, shard: Shard, is_committed: Callable[[str], bool]) -> None:
        self._shard = shard
        self._is_committed = remember(is_committed)
        self.passed_over: set[int] = set()
        self._had: set[str] = set()
        self.whole = self._committed_any = False
        self.images = shard.images or 0

    def chunk(self, name: str) -> bool:
        """Whether a chunk is to be read."""
        committed = self._is_committed(name)
        self._committed_any = self._committed_any or committed
        return not committed and name not in self._had

    def not_any_more(self, name: str, images: int, *, last: bool) -> None:
        """A chunk of so many images has been had from elsewhere. last: it is known to be the last one of its shard."""
        self._had.add(name)
        if self._shard.images is None:
            self.images += images
        known = self._shard.images is not None and len(self._had) * CHUNK_IMAGES >= self._shard.images
        self.whole = known or (last and not self._committed_any)

    def __call__(self, ordinal: int) -> bool:
        self.images = max(self.images, ordinal + 1)
        if chunk_name(self._shard.id, ordinal // CHUNK_IMAGES) in self._had:
            return False
        if self._is_committed(chunk_name(self._shard.id, ordinal // CHUNK_IMAGES)):
            self.passed_over.add(ordinal)
            return False
        return True


def decode_chunk(
    name: str, images: Iterable[tuple[int, EncodedImage]], preprocess: Preprocess, decoder: Decode = decode
) -> tuple[Chunk, dict[int, EncodedImage]]:
    """Decode up to CHUNK_IMAGES images as they arrive, each straight to its place; what fails is an error, not a gap.

    images: with their ordinals in the shard. Returns the chunk, and as they were read those images of it that are errors.
    """
    began = time.process_time()
    pixels = _room_for_pixels(preprocess.shape)
    ids: list[str] = []
    labels: list[int | None] = []
    errors: list[str | None] = []
    failed: dict[int, EncodedImage] = {}
    for ordinal, image in images:
        error = image.error
        if error is None:
            try:
                decoder(image.data, preprocess, pixels[len(ids) - len(failed)])
            except DecodeError as failure:
                error = str(failure)
        if error is not None:
            failed[ordinal] = image
        ids.append(image.image_id)
        labels.append(image.label)
        errors.append(error)
    lasting = all(image.error is None for image in failed.values())
    decoded = pixels[: len(ids) - len(failed)]
    used = time.process_time() - began
    return Chunk(name, ids, labels, errors, decoded, socket.gethostname(), used, lasting=lasting), failed


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
