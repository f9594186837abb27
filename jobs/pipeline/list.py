"""Hand out the shards that are left to do: rows of packed shards in, rows of shards out."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray

from jobs.pipeline.chunk import CHUNK_IMAGES, chunk_name
from jobs.pipeline.commit import Predictions
from jobs.pipeline.ledger import tell_ledger
from jobs.pipeline.sources import unpacked
from jobs.pipeline.sources.in_order import in_order
from jobs.pipeline.sources.surveying import Unpacked


def list_shards(
    packed: pa.Table,
    *,
    predictions: Predictions,
    ledger: Any,
    resume: bool,
    share: tuple[int, int],
    wait: Callable[[], None] | None,
    only: frozenset[str],
) -> Iterator[pa.Table]:
    """Rows (number, shards as `surveyed` packed them) -> rows (id, payload as JSON, images), one at a time.

    On resume, shards that are committed whole are left out: a task for each would cost as much as its first one did. When the
    run is draining, no more are handed out: a data set may have millions more. Asked once a second, since an answer takes longer
    than handing out a shard.

    share: see `unpacked`. wait: called before anything is handed out. only: shards, where not all are to be handed out.
    """
    tell_ledger(ledger)
    if wait:
        wait()
    looked = time.monotonic()

    def look_up(shard: Unpacked) -> tuple[Unpacked, bool]:
        """The shard, and whether all its chunks are known to be committed: never on a first attempt, nor of unknown size."""
        name, _, images = shard
        if not resume or images is None:
            return shard, False
        return shard, all(predictions.is_committed(chunk_name(name, k)) for k in range(-(-images // CHUNK_IMAGES)))

    for row in packed.to_pylist():
        listed = 0
        shards = (each for each in unpacked(row["shards"], row["number"], share) if not only or each[0] in only)
        for (name, payload, images), committed in in_order(look_up, shards):
            if time.monotonic() - looked > 1:
                if ray.get(ledger.is_draining.remote()):
                    return
                looked = time.monotonic()
            if committed:
                ledger.passed_over.remote(images)
                continue
            listed += 1
            yield pa.table({"id": [name], "payload": [payload], "images": pa.array([images], pa.int64())})
        ledger.listed.remote(row["number"], listed)
