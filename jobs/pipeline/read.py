"""List shards, then read and decode them: rows of roots in, rows of shards, rows of chunks out."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from jobs.pipeline.chunk import CHUNK_IMAGES, Chunk
from jobs.pipeline.commit import Predictions
from jobs.pipeline.decode import DecodeError, decode
from jobs.pipeline.sources import EncodedImage, Shard, Source
from vit_actor.preprocess import Preprocess


def list_shards(roots: pa.Table, *, source: Source) -> Iterator[pa.Table]:
    """Rows (root) -> rows (shard id, payload as JSON), one at a time, so that reading starts while listing goes on."""
    for root in roots["root"].to_pylist():
        for shard in source.shards(root):
            yield pa.table({"id": [shard.id], "payload": [json.dumps(shard.payload)]})


def read_chunks(
    shards: pa.Table, *, source: Source, preprocess: Preprocess, predictions: Predictions, resume: bool
) -> Iterator[pa.Table]:
    """Rows of shards -> rows of decoded chunks (Chunk.to_table), each as soon as it is full.

    On resume, chunks that are already committed are neither read nor decoded.
    """
    for row in shards.to_pylist():
        shard = Shard(row["id"], json.loads(row["payload"]))
        committed: dict[int, bool] = {}

        def wanted(ordinal: int, shard: Shard = shard, committed: dict[int, bool] = committed) -> bool:
            k = ordinal // CHUNK_IMAGES
            if resume and k not in committed:
                committed[k] = predictions.is_committed(chunk_name(shard, k))
            return not committed.get(k, False)

        images: list[EncodedImage] = []
        current = 0
        for ordinal, image in source.read(shard, wanted):
            if ordinal // CHUNK_IMAGES != current:
                if images:
                    yield _decode_chunk(chunk_name(shard, current), images, preprocess)
                images, current = [], ordinal // CHUNK_IMAGES
            images.append(image)
        if images:
            yield _decode_chunk(chunk_name(shard, current), images, preprocess)


def chunk_name(shard: Shard, k: int) -> str:
    """The name of a shard's k-th chunk; the same whenever and wherever the shard is read."""
    return f"{shard.id}.{k:05d}"


def _decode_chunk(name: str, images: list[EncodedImage], preprocess: Preprocess) -> pa.Table:
    pixels = np.empty((len(images), *preprocess.shape), np.uint8)
    errors: list[str | None] = []
    decoded = 0
    for image in images:
        error = image.error
        if error is None:
            try:
                decode(image.data, preprocess, pixels[decoded])
                decoded += 1
            except DecodeError as failure:
                error = str(failure)
        errors.append(error)
    return Chunk(name, [i.image_id for i in images], [i.label for i in images], errors, pixels[:decoded]).to_table()
