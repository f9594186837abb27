"""The pipeline: list -> read and decode -> classify -> commit, streamed by Ray Data from end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from jobs.pipeline.classify import Classifier
from jobs.pipeline.commit import Predictions, commit_chunks
from jobs.pipeline.read import list_shards, read_chunks
from jobs.pipeline.sources import Source
from jobs.placement import BOARDS, Placement
from vit_actor.device import Device
from vit_actor.preprocess import Preprocess

CALLS_PER_ACTOR = 3
"""Chunks an actor works on at once: one answers, one computes, one has its first batches uploaded."""


def classify_images(
    source: Source,
    predictions: Predictions,
    open_device: Callable[[], Device],
    *,
    preprocess: Preprocess,
    placement: Placement,
    identity: dict[str, Any],
    ledger: Any,
    resume: bool,
    limit_seconds: float,
) -> Iterator[pa.Table]:
    """Classify a source's images into committed predictions; yields rows (chunk, images, errors) as chunks are committed."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # Every block holds one row: a root, a shard, a chunk. Rows are large, so any limit below a row's size does that.
    context.target_max_block_size = 1
    # Listing and committing wait for storage rather than compute: no CPU of their own, and few at a time.
    few = TaskPoolStrategy(size=2)
    whole: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
    read = partial(read_chunks, source=source, preprocess=preprocess, predictions=predictions, resume=resume)
    dataset = (
        ray.data.from_items([{"root": root} for root in source.roots()])
        .map_batches(partial(list_shards, source=source), **whole, num_cpus=0, compute=few)
        .map_batches(read, **whole, num_cpus=placement.decode_cpus)
        .map_batches(
            Classifier,
            fn_constructor_args=(open_device, identity, ledger, limit_seconds),
            **whole,
            compute=ActorPoolStrategy(
                size=placement.actors,
                max_tasks_in_flight_per_actor=CALLS_PER_ACTOR + 1,
                max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
                enable_true_multi_threading=True,
            ),
            num_cpus=placement.cpus,
            resources={BOARDS: placement.boards} if placement.boards else None,
        )
        .map_batches(partial(commit_chunks, predictions=predictions), **whole, num_cpus=0, compute=few)
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=4)
