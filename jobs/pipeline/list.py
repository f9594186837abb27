"""List the shards that are left to do: rows of roots in, rows of shards out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from jobs.pipeline.chunk import CHUNK_IMAGES, chunk_name
from jobs.pipeline.commit import Predictions
from jobs.pipeline.sources import Shard, Source
from jobs.pipeline.sources.in_order import in_order


def list_shards(roots: pa.Table, *, source: Source, predictions: Predictions, ledger: Any, resume: bool) -> Iterator[pa.Table]:
    """Rows (root) -> rows (shard id, payload as JSON, images), one at a time, so that reading starts while listing goes on.

    On resume, shards that are committed whole are left out: a task for each would cost as much as its first one did. When the
    run is draining, no more are listed: a data set may have millions more. Asked once a second, since an
    answer takes longer than listing a shard.
    """
    looked = time.monotonic()
    for root in roots["root"].to_pylist():
        listed = 0
        for shard, committed in in_order(partial(_look_up, predictions=predictions, resume=resume), source.shards(root)):
            if time.monotonic() - looked > 1:
                if ray.get(ledger.is_draining.remote()):
                    return
                looked = time.monotonic()
            if committed:
                ledger.passed_over.remote(shard.images)
                continue
            listed += 1
            images = pa.array([shard.images], pa.int64())
            yield pa.table({"id": [shard.id], "payload": [json.dumps(shard.payload)], "images": images})
        ledger.listed.remote(hashlib.sha256(root.encode()).hexdigest(), listed)


def _look_up(shard: Shard, *, predictions: Predictions, resume: bool) -> tuple[Shard, bool]:
    """The shard, and whether all its chunks are known to be committed: never on a first attempt, nor of unknown size."""
    if not resume or shard.images is None:
        return shard, False
    return shard, all(predictions.is_committed(chunk_name(shard, k)) for k in range(-(-shard.images // CHUNK_IMAGES)))
