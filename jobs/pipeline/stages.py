"""The stages as Ray Data streams them: list, read and decode, classify and commit. Rows are chunks all the way."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from jobs.pipeline.classify import Classifier
from jobs.pipeline.list import list_shards
from jobs.pipeline.placement import BOARDS, Placement
from jobs.pipeline.plan import Plan
from jobs.pipeline.read import read_chunks
from vit_actor.errors import DeviceError

WHOLE: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
"""A function is given whole blocks as they lie in the object store."""
LISTERS = TaskPoolStrategy(2)
"""On a resume, handing out shards waits for storage, not for compute: no CPU of its own, and two tasks at once keep up."""
LISTINGS = 16  # Tasks that hand out shards, at most; LISTERS run at once
LAST_CHECK_SECONDS = 20.0  # What the meshes may take to be released and checked after the last chunk; a lost one never is
MOST_PASSES = 10  # Over chunks that no passed check followed, until the run fails
SETTINGS = {
    "enable_progress_bars": False,
    # Else what reaches the driver is "UDF failed", and the reason only as part of a traceback.
    "raise_original_map_exception": True,
    # Every block of shards and of chunks holds one row. Rows are large, so any limit below a row's size does that.
    "target_max_block_size": 1,
    "memory_usage_poll_interval_s": None,  # else each task starts a thread, for a statistic that nothing here reads
    # No limit: a run may have to wait for a LoudBox to join, and a slow CPU may take long for a chunk.
    "execution_no_progress_timeout_s": -1,
}
"""Fields of DataContext."""
POOL_SETTINGS = {
    # With every actor full (placement.calls + 1 chunks) the pool asks for more, which a mesh that joins late answers; about
    # one in five waits for such a mesh. None is given up for a lull: it would have to compile again.
    "actor_pool_util_upscaling_threshold": 1.1,
    "actor_pool_util_downscaling_threshold": -1.0,
}
"""Fields of its autoscaling_config."""


def committed(plan: Plan) -> Iterator[dict[str, Any]]:
    """Run the stages: yields chunk, images and errors, by name, of each chunk as it is committed.

    Chunks that no passed check of their mesh followed are taken back at the end, and their shards are read again for them.
    Raises DeviceError where no mesh is left for it, or passes do not end.
    """
    for _ in range(MOST_PASSES):
        try:
            yield from classified(decoded(plan), plan)
        except Exception:
            with suppress(Exception):  # the ledger may be what has failed
                if ray.get(plan.ledger.none_left.remote()):
                    plan.predictions.discard(ray.get(plan.ledger.doubtful.remote(last=True)))
            raise
        limit = time.monotonic() + LAST_CHECK_SECONDS  # for the meshes to be released and checked
        while (doubtful := ray.get(plan.ledger.doubtful.remote(time.monotonic() > limit))) is None:
            time.sleep(0.05)
        plan.predictions.discard(doubtful)
        if not doubtful or ray.get(plan.ledger.is_draining.remote()):
            return
        if why := ray.get(plan.ledger.none_left.remote()):
            raise DeviceError(why)
        plan = replace(plan, resume=True, doubtful=frozenset(doubtful))
    what = f"{len(doubtful):,} chunks still have no passed check of their chips after them"
    raise DeviceError(f"after {MOST_PASSES} passes {what}; the events above say which chips failed")


def decoded(plan: Plan) -> Dataset:
    """Every image of the plan's share as rows of decoded chunks; on resume only chunks that are not committed."""
    configure(plan.placement)
    shards = ray.get(plan.shards)
    plan.ledger.listing.remote(len(shards), plan.placement.actors, plan.doubtful)
    rows = [{"number": number, "shards": together} for number, together in enumerate(shards)]
    common = {"predictions": plan.predictions, "ledger": plan.ledger, "resume": plan.resume}
    only = frozenset(chunk.rpartition(".")[0] for chunk in plan.doubtful)
    lists = partial(list_shards, **common, share=plan.share, wait=plan.wait, only=only)
    reads = partial(read_chunks, **common, source=plan.source, preprocess=plan.preprocess, cache=plan.cache)
    packed = ray.data.from_items(rows, override_num_blocks=min(len(rows), LISTINGS))
    listed = packed.map_batches(lists, **WHOLE, num_cpus=0, compute=LISTERS)
    return listed.map_batches(reads, **WHOLE, num_cpus=plan.placement.decode_cpus)


def on_meshes(chunks: Dataset, plan: Plan) -> Dataset:
    """Rows (chunk, images, errors) of decoded chunks, once they are committed; one actor a mesh."""
    placement = plan.placement
    return chunks.map_batches(
        Classifier,
        fn_constructor_args=(
            plan.open_device, plan.predictions, plan.identity, plan.ledger, plan.limit_seconds, placement.calls,
            plan.check_seconds,
        ),
        **WHOLE,
        compute=ActorPoolStrategy(
            min_size=placement.actors,
            max_size=None if placement.grows else placement.actors,
            max_tasks_in_flight_per_actor=placement.calls + 1,
            max_concurrent_calls_per_actor=placement.calls,
            enable_true_multi_threading=True,
        ),
        num_cpus=placement.cpus,
        resources={BOARDS: placement.boards} if placement.boards else None,
        # A device that fails or hangs ends its actor's process: Ray starts it again, without limit, with the chunks it had. They
        # also keep Ray Data from decoding in the actors, which it does where both stages ask for the same.
        max_restarts=-1,
        max_task_retries=-1,
    )  # fmt: skip


def classified(chunks: Dataset, plan: Plan) -> Iterator[dict[str, Any]]:
    """Run the stages that end in these chunks: see `committed`."""
    for table in on_meshes(chunks, plan).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=4):
        # Not `yield from`: Ray calls send() on this generator, which a list's iterator does not have.
        for chunk in table.to_pylist():  # noqa: UP028
            yield chunk


def configure(placement: Placement) -> None:
    """Ray Data's settings in this process."""
    context = DataContext.get_current()
    # Else a chunk goes to the mesh on its own host even if another has nothing to do.
    context.execution_options.actor_locality_enabled = not placement.slow
    # A mesh that does not open is given up for good after this many tries in a row; the others go on.
    given_up_after = {"max_consecutive_actor_init_deaths": 2 * placement.actors}
    for settings, values in ((context, SETTINGS | given_up_after), (context.autoscaling_config, POOL_SETTINGS)):
        for name, value in values.items():
            if not hasattr(settings, name):  # else Ray Data would take any name, and read none of these
                raise AttributeError(f"{type(settings).__name__} has no {name} in this release of Ray")
            setattr(settings, name, value)
