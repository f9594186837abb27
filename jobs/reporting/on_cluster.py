"""Predictions counted by Ray Data: files in, partial counts out, merged by an aggregation of its own.

To be imported in a session of Ray (jobs.running.session).
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import pyarrow as pa
import ray
from ray.data.aggregate import AggregateFnV2
from ray.data.block import Block, BlockAccessor
from ray.data.context import ShuffleStrategy

from jobs.reporting.counts import Counting, Counts
from jobs.reporting.reduction import Task, count_files
from vit_actor.errors import UserError

MERGES = 16  # Sums that are merged at the same time; what is left for this process


def count_on_cluster(tasks: list[Task]) -> list[Counts]:
    """At most MERGES counts, which add up to the tasks'. Raises UserError where storage fails."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.raise_original_map_exception = False, True
    # Actors merge counts as they come in. The default strategy merges all at once, in tasks with an environment of their own,
    # which needs an agent that a session on this machine lacks. The actors reserve no core: counting needs whole ones.
    context.shuffle_strategy, context.hash_aggregate_operator_actor_num_cpus_override = ShuffleStrategy.HASH_SHUFFLE, 0
    rows = [{"merge": number % MERGES, "task": number} for number in range(len(tasks))]
    counted = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_count, fn_args=(ray.put(tasks),))
    merged = counted.groupby("merge", num_partitions=min(MERGES, len(rows))).aggregate(_Merged())
    try:
        return [_unpacked(row["counts"]) for row in merged.iter_rows()]
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause).splitlines()[0]) from None  # Ray Data adds advice of its own below it
        raise


def _count(row: dict[str, Any], tasks: ray.ObjectRef) -> dict[str, Any]:
    task = ray.get(tasks)[row["task"]]
    return {"merge": row["merge"], "counts": _packed(count_files(task, Counting(task.real, threads=1)))}


def _packed(counts: Counts) -> bytes:
    """Counts as one Arrow stream of their names and streams."""
    return _stream(pa.table({"part": list(counts), "rows": [_stream(table) for table in counts.values()]}))


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _unpacked(packed: bytes) -> Counts:
    rows = pa.ipc.open_stream(packed).read_all().to_pylist()
    return {row["part"]: pa.ipc.open_stream(row["rows"]).read_all() for row in rows}


class _Merged(AggregateFnV2[bytes, bytes]):
    """The sum of the packed Counts in the column `counts`."""

    def __init__(self) -> None:
        super().__init__("counts", zero_factory=bytes, on="counts", ignore_nulls=True)

    def aggregate_block(self, block: Block) -> bytes:
        return _merge(BlockAccessor.for_block(block).to_arrow()["counts"].to_pylist())

    def combine(self, current_accumulator: bytes, new: bytes) -> bytes:
        return _merge([current_accumulator, new])


def _merge(packed: list[bytes]) -> bytes:
    if len(packed) == 1:
        return packed[0]
    if not hasattr(_of_thread, "counting"):  # an actor merges in several threads
        _of_thread.counting = Counting(threads=1)
    return _packed(_of_thread.counting.merge(*map(_unpacked, packed)))


_of_thread = threading.local()
