"""How busy the pipeline keeps a device of 10 ms compute, 5 ms upload and 5 ms read-back a batch of 64: 100% is its bound.

python -m tests.benchmarks.overlap
"""

import functools
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy

from jobs.pipeline.chunk import CHUNK_IMAGES, Chunk
from jobs.pipeline.stages import WHOLE
from tests.benchmarks.running import run_made, session, simulated

open_device = functools.partial(simulated, "compute=10ms,upload=5ms,readback=5ms,compile=0s")
COMPUTE_SECONDS = 10e-3
SHARD_CHUNKS = 8
ROUNDS = 3


def made(shards: int, images: int, *, pauses: bool = False) -> ray.data.Dataset:
    """Chunks of so many images; one block each, as the pipeline's are: reading a range would take a core from their tasks."""
    items = ray.data.from_items([{"id": shard} for shard in range(shards)], override_num_blocks=shards)
    return items.map_batches(functools.partial(_make_chunks, images=images, pauses=pauses), **WHOLE, num_cpus=0.5)


def _make_chunks(table: pa.Table, *, images: int, pauses: bool) -> Any:
    """Chunks that cost next to nothing, evenly or in bursts: with `pauses`, every eighth comes half a second late."""
    pixels = np.zeros((images, 224, 224, 3), np.uint8)
    for shard in table["id"].to_pylist():
        for number in range(SHARD_CHUNKS):
            if pauses and number % 8 == 7:
                time.sleep(0.5)
            name = f"{shard:05d}.{number}"
            yield Chunk(name, [f"{name}-{i}" for i in range(images)], [0] * images, [None] * images, pixels).to_table()


def busy(*, pauses: bool) -> float:
    """The real stages on made-up chunks: the share of its compute bound that the device reaches."""
    with tempfile.TemporaryDirectory() as out:
        deque(run_made(made(40, CHUNK_IMAGES, pauses=pauses), open_device, out), maxlen=0)
        rows = pq.read_table(Path(out) / "predictions", columns=["started_at", "batch_seconds"])
    started = np.array(rows["started_at"].cast(pa.int64()), float) / 1e6
    return _share(rows.num_rows, started, np.array(rows["batch_seconds"]))


class CallPerBatch:
    """The plain way: one call a batch, which waits for its answer."""

    def __init__(self) -> None:
        self._device = open_device()
        self._device.compile()

    def __call__(self, table: pa.Table) -> pa.Table:
        (result,) = self._device.classify([Chunk.from_table(table).pixels])
        return pa.table({"started_at": [result.started_at], "batch_seconds": [result.seconds]})


def call_per_batch() -> float:
    classified = made(40, 64).map_batches(CallPerBatch, **WHOLE, compute=ActorPoolStrategy(size=1), num_cpus=0.5)
    rows = pa.concat_tables(classified.iter_batches(batch_size=None, batch_format="pyarrow"))
    return _share(64 * rows.num_rows, np.array(rows["started_at"]), np.array(rows["batch_seconds"]))


def _share(images: int, started: np.ndarray, seconds: np.ndarray) -> float:
    return images / 64 * COMPUTE_SECONDS / float((started + seconds).max() - started.min())


def main() -> None:
    alternatives: dict[str, Callable[[], float]] = {
        "one call a batch, waited for": call_per_batch,
        "this pipeline, chunks always ready": functools.partial(busy, pauses=False),
        "this pipeline, chunks in bursts": functools.partial(busy, pauses=True),
    }
    with session():  # the first round starts workers and does not count
        rounds = [{name: run() for name, run in alternatives.items()} for _ in range(1 + ROUNDS)][1:]
    print("Share of its compute bound that a simulated device reaches (10 ms compute, 5 ms upload, 5 ms read-back a batch of 64)")
    print(f"{'':44} {'median':>8} {'least':>8} {'most':>8}")
    for name in alternatives:
        shares = [each[name] for each in rounds]
        print(f"{name:44} {statistics.median(shares):8.1%} {min(shares):8.1%} {max(shares):8.1%}")


if __name__ == "__main__":
    main()
