"""Predictions counted by Ray Data: files in, partial counts out, which are merged as they come.

To be imported in a session of Ray (jobs.running.session).
"""

from __future__ import annotations

import logging
from itertools import batched
from typing import Any

import pyarrow as pa
import ray
from ray.data.context import DataContext

from jobs.reporting.counts import Counting, Counts
from jobs.reporting.imagenet_sets import Real
from jobs.reporting.reduction import Task, count_files
from vit_actor.errors import UserError

MERGED_AT_ONCE = 16  # Counts of tasks; a merge takes as long for a few


def count_on_cluster(tasks: list[Task], counting: Counting, real: Real | None) -> Counts:
    """The counts of all tasks. Raises UserError where storage fails."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars, context.raise_original_map_exception = False, True
    rows = [{"task": number} for number in range(len(tasks))]
    counted = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_count, fn_args=(ray.put(tasks), ray.put(real)))
    counts: list[Counts] = []
    try:
        for some in batched(counted.iter_rows(), MERGED_AT_ONCE):
            counts = [counting.merge(*counts, *map(_unpacked, some))]
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause).splitlines()[0]) from None  # Ray Data adds advice of its own below it
        raise
    return counts[0]


def _count(row: dict[str, Any], tasks: ray.ObjectRef, real: ray.ObjectRef) -> dict[str, Any]:
    """A task's counts, each table as an Arrow stream."""
    counts = count_files(ray.get(tasks)[row["task"]], Counting(ray.get(real), threads=1))
    return {name: _stream(table) for name, table in counts.items()}


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _unpacked(row: dict[str, Any]) -> Counts:
    return {name: pa.ipc.open_stream(stream).read_all() for name, stream in row.items() if stream is not None}
