"""The stages as Ray Data streams them: list, read and decode, classify and commit. Rows are chunks all the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.data._internal.execution.operators import map_operator

from jobs.pipeline.cache import Cache
from jobs.pipeline.classify import Classifier
from jobs.pipeline.commit import Predictions
from jobs.pipeline.hand_out import hand_out_evenly
from jobs.pipeline.list import list_shards
from jobs.pipeline.placement import BOARDS, Placement
from jobs.pipeline.read import read_chunks
from jobs.pipeline.sources import Source
from vit_actor.device import Device
from vit_actor.preprocess import Preprocess

WHOLE: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
"""A function is given whole blocks as they lie in the object store."""


LISTERS = TaskPoolStrategy(2)
"""On a resume, handing out shards waits for storage, not for compute: no CPU of its own, and two tasks at once keep up."""
LISTINGS = 16
"""Tasks that hand out shards, at most; LISTERS run at once."""


def read(
    source: Source,
    shards: list[bytes],
    *,
    preprocess: Preprocess,
    predictions: Predictions,
    placement: Placement,
    ledger: Any,
    resume: bool,
    cache: Cache | None = None,
    share: tuple[int, int] = (0, 1),
    wait: Callable[[], None] | None = None,
) -> Dataset:
    """Every image of a source as rows of decoded chunks; on resume only chunks that are not committed.

    shards: of the source, as `surveyed` packed them. share, wait: see list_shards.
    """
    for handler in logging.getLogger("ray.data").handlers:  # to the terminal; Ray Data's log file keeps the tracebacks
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # Else what reaches the driver is "UDF failed", and the reason only as part of a traceback.
    context.raise_original_map_exception = True
    # Every block of shards and of chunks holds one row. Rows are large, so any limit below a row's size does that.
    context.target_max_block_size = 1
    context.memory_usage_poll_interval_s = None  # else each task starts a thread, for a statistic that nothing here reads
    # A mesh that does not open is given up for good after this many tries in a row; the others go on.
    context.max_consecutive_actor_init_deaths = 2 * placement.actors
    # With every actor full (placement.calls + 1 chunks) the pool asks for more, which a mesh that joins late answers; about
    # one in five waits for such a mesh. None is given up for a lull: it would have to compile again.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.1
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0
    ledger.listing.remote(len(shards))
    rows = [{"number": number, "shards": together} for number, together in enumerate(shards)]
    packed = ray.data.from_items(rows, override_num_blocks=min(len(rows), LISTINGS))
    common = {"predictions": predictions, "ledger": ledger, "resume": resume}
    listed = packed.map_batches(partial(list_shards, **common, share=share, wait=wait), **WHOLE, num_cpus=0, compute=LISTERS)
    return listed.map_batches(
        partial(read_chunks, **common, source=source, preprocess=preprocess, cache=cache), **WHOLE, num_cpus=placement.decode_cpus
    )


def classify(
    chunks: Dataset,
    open_device: Callable[[], Device],
    predictions: Predictions,
    *,
    placement: Placement,
    identity: dict[str, Any],
    ledger: Any,
    limit_seconds: float,
) -> Iterator[dict[str, Any]]:
    """Run the stream, with one actor a mesh (see Classifier for the arguments): yields chunk, images and errors, by name, of
    each chunk as it is committed."""
    hand_out_evenly()
    # Else this process keeps statistics of every block, about 8 KB a chunk, and sends them all to another one every five seconds:
    # 0.8 GB, and 1.5 s of CPU time each time, for 50 million images. Ray has no setting for it.
    map_operator.to_stats = lambda _: []
    committed = chunks.map_batches(
        Classifier,
        fn_constructor_args=(open_device, predictions, identity, ledger, limit_seconds, placement.calls),
        **WHOLE,
        compute=ActorPoolStrategy(
            min_size=placement.actors,
            max_size=None if placement.grows else placement.actors,
            max_tasks_in_flight_per_actor=placement.calls + 1,
            max_concurrent_calls_per_actor=placement.calls,
            enable_true_multi_threading=True,
        ),
        num_cpus=placement.cpus,
        # One byte: Ray fuses decoding into the actors where both ask for the same.
        memory=1,
        resources={BOARDS: placement.boards} if placement.boards else None,
    )
    for table in committed.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=4):
        # Not `yield from`: Ray calls send() on this generator, which a list's iterator does not have.
        for chunk in table.to_pylist():  # noqa: UP028
            yield chunk
