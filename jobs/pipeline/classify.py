"""Classify chunks on one mesh: rows of chunks in, rows of predictions out; the class Ray Data makes an actor of."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from jobs.pipeline.chunk import Chunk
from jobs.pipeline.schema import PREDICTIONS
from vit_actor.actor import DeviceThread
from vit_actor.device import BatchResult, Device


class Classifier:
    """A Ray actor's body: pins a device once, then classifies chunks from concurrent calls.

    open_device: makes the device from the number of CPUs reserved for it, called on the thread that will own it.
    identity: run_id, attempt and versions, repeated in every file's footer.
    """

    def __init__(self, open_device: Callable[[], Device], identity: dict[str, Any], limit_seconds: float) -> None:
        self._device = DeviceThread(open_device, limit_seconds=limit_seconds)
        self._host = socket.gethostname()
        self._mesh = mesh_name(self._host)
        self._batches = 0
        self._identity = {
            **identity,
            "mesh": self._mesh,
            "description": self._device.description,
            "batch_size": self._device.batch_size,
            "compile_seconds": self._device.compile_seconds,
        }

    def __call__(self, table: pa.Table) -> pa.Table:
        chunk = Chunk.from_table(table)
        results = self._device.classify(chunk.pixels)
        first = self._batches
        self._batches += len(results)  # a race between calls would only make two chunks share ordinals
        rows = prediction_rows(chunk, results, first, host=self._host, mesh=self._mesh, run_id=self._identity["run_id"])
        return pa.table(
            {
                "chunk": [chunk.name],
                "rows": pa.ListArray.from_arrays(pa.array([0, rows.num_rows], pa.int32()), rows.to_struct_array().combine_chunks()),
                "footer": [json.dumps({**self._identity, "chunk": chunk.name})],
            }
        )


def mesh_name(host: str) -> str:
    """host/boards, such as loudbox-1/0-3, from the boards Ray gave this worker; without boards host/cpu-<process>."""
    boards = ray.get_runtime_context().get_accelerator_ids().get("TTNPU", [])
    if not boards:
        return f"{host}/cpu-{os.getpid()}"
    return f"{host}/{boards[0]}-{boards[-1]}" if len(boards) > 1 else f"{host}/{boards[0]}"


def prediction_rows(
    chunk: Chunk, results: list[BatchResult], first_batch: int, *, host: str, mesh: str, run_id: str
) -> pa.Table:
    """One row an image of the chunk (schema PREDICTIONS), in its order; images that have an error get no prediction."""
    n = len(chunk.image_ids)
    failed = np.array([error is not None for error in chunk.errors], bool)
    sizes = [len(result.classes) for result in results]
    # Where each image's answer is among the decoded ones; Arrow's take makes a null of a null index.
    answer = pa.array(np.cumsum(~failed) - 1, pa.int64(), mask=failed)

    def spread(values: pa.Array) -> pa.Array:
        return values.take(answer)

    def per_batch(values: list[Any], kind: pa.DataType) -> pa.Array:
        return spread(pa.array(np.repeat(np.array(values), sizes) if values else [], kind))

    classes = np.concatenate([r.classes for r in results]) if results else np.empty((0, 1), np.int32)
    probabilities = np.concatenate([r.probabilities for r in results]) if results else np.empty((0, 1), np.float32)
    labels = pa.array(chunk.labels, pa.int32())
    prediction = spread(pa.array(classes[:, 0], pa.int32()))
    hit = np.array(prediction.fill_null(-1)) == np.array(labels.fill_null(-2))
    return pa.Table.from_arrays(
        [
            pa.array(chunk.image_ids, pa.string()),
            labels,
            prediction,
            spread(_list_array(classes, pa.int32())),
            spread(_list_array(probabilities, pa.float32())),
            pa.array(hit, pa.bool_(), mask=np.array(labels.is_null())),
            pa.array(chunk.errors, pa.string()),
            pa.array([host] * n, pa.string()),
            pa.array([mesh] * n, pa.string()),
            per_batch(list(range(first_batch, first_batch + len(results))), pa.int64()),
            per_batch([round(r.started_at * 1e6) for r in results], pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            per_batch([r.seconds for r in results], pa.float64()),
            pa.array([run_id] * n, pa.string()),
        ],
        schema=PREDICTIONS,
    )


def _list_array(values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """(n, k) -> n lists of k."""
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1), kind))
