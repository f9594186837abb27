"""Read and decode shards: rows of shards in, rows of chunks out."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import count, groupby, islice
from typing import Any, Literal

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
        is_committed = predictions.is_committed if resume else lambda chunk: False
        reading = _Reading(source, shard, attempt, preprocess, ledger, is_committed)
        for kept in reading.cached(cache) if cache else ():
            ledger.done_reading.remote(kept.name, len(kept.image_ids), from_cache=True)
            yield kept.to_table()
        while chunk := patiently(reading.next, shown(source.folder)):
            if cache and chunk.lasting and not reading.sandboxed and ray.get(ledger.cache_takes.remote(chunk.pixels.nbytes)):
                try:
                    cache.keep(chunk)
                except UserError as error:  # the run goes on without the cache
                    ledger.cache_off.remote(str(error))
            ledger.done_reading.remote(chunk.name, len(chunk.image_ids))
            yield chunk.to_table()
            del chunk  # Ray has its copy, and the memory is free for the next one
        if reading.stopped:
            return
        if reading.passed_over:
            ledger.passed_over.remote(reading.passed_over)
        ledger.shard_read.remote(shard.id, reading.images)


class _Reading:
    """The chunks of a shard that are not committed: those in the cache, and the others, read and decoded one after the other.

    An image that cannot be decoded is read once more, past the page cache. If that gives other bytes, storage is failing, and
    reading goes on again with the chunk.
    images: of the shard, as far as it was read. sandboxed: whether the latest chunk was. stopped: whether the run is draining.
    """

    def __init__(
        self,
        source: Source,
        shard: Shard,
        attempt: int,
        preprocess: Preprocess,
        ledger: Any,
        is_committed: Callable[[str], bool],
    ) -> None:
        self._source, self._shard, self._attempt = source, shard, attempt
        self._preprocess, self._ledger, self._is_committed = preprocess, ledger, is_committed
        self._states: dict[int, Literal["committed", "cached", "left"]] = {}
        self._groups: Iterator[tuple[int, Iterator[tuple[int, EncodedImage]]]] | None = None
        self._following = 0
        self._begun: tuple[str, int | None] = ("", None)
        self.images = shard.images or 0
        self._whole = self.sandboxed = self.stopped = False

    @property
    def passed_over(self) -> int:
        """The images that are committed."""
        committed = [k for k, state in self._states.items() if state == "committed"]
        return sum(max(0, min(CHUNK_IMAGES, self.images - k * CHUNK_IMAGES)) for k in committed)

    def cached(self, cache: Cache) -> Iterator[Chunk]:
        """The chunks that are in the cache; where their number is not known, up to the first that is not."""
        for k in count() if self._shard.images is None else range(-(-self._shard.images // CHUNK_IMAGES)):
            began = time.process_time()
            if not self._is_left(k):
                continue
            chunk = cache.load(chunk_name(self._shard.id, k))
            if chunk is not None:
                self._states[k] = "cached"
                self.images = max(self.images, k * CHUNK_IMAGES + len(chunk.image_ids))
                self._whole = len(chunk.image_ids) < CHUNK_IMAGES  # then it is the last one
                chunk = replace(cache.reference(chunk), host=socket.gethostname())
                yield replace(chunk, cpu_seconds=time.process_time() - began)
            elif self._shard.images is None:
                return
        self._whole = not any(map(self._is_left, range(-(-self.images // CHUNK_IMAGES))))

    def _is_left(self, k: int) -> bool:
        if k not in self._states:
            self._states[k] = "committed" if self._is_committed(chunk_name(self._shard.id, k)) else "left"
        return self._states[k] == "left"

    def _is_wanted(self, ordinal: int) -> bool:
        self.images = max(self.images, ordinal + 1)
        return ordinal >= self._following and self._is_left(ordinal // CHUNK_IMAGES)

    def next(self) -> Chunk | None:
        """The next chunk; None after the last one, or when the run is draining. Raises StorageError; can be asked again."""
        try:
            if self._whole:
                return None
            if self._groups is None:
                self._groups = groupby(self._encoded(), key=lambda pair: pair[0] // CHUNK_IMAGES)
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
            with sandboxed() if self.sandboxed else nullcontext(time_limited) as decoder:
                chunk, failed = decode_chunk(name, numbered, self._preprocess, decoder)
            self._read_again(failed)
            self._following = (k + 1) * CHUNK_IMAGES
            return chunk
        except Damaged as damage:  # a file that could be read when it was listed
            self._groups = None
            raise Failing(f"{shown(self._source.folder)}: {self._shard.id}: {damage}") from None
        except Failing:
            self._groups = None
            raise

    def _encoded(self) -> Iterator[tuple[int, EncodedImage]]:
        """The wanted images: after deaths of the process that read them, read in another one, and at last not at all."""
        if self._attempt <= QUARANTINE_AFTER:
            return self._source.read(self._shard, self._is_wanted)
        reason = f"cannot be read: reading it ended the process {self._attempt - 1} times"
        apart = self._attempt <= SHARD_ATTEMPTS
        images = read_apart(self._source, self._shard) if apart else lost(self._shard, 0, reason)
        return (pair for pair in images if self._is_wanted(pair[0]))

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
