"""How busy the pipeline keeps a device of 10 ms compute, 5 ms upload and 5 ms read-back a batch of 64: 100% is its bound.

python -m tests.benchmarks.overlap
"""

from __future__ import annotations

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
from jobs.pipeline.placement import Placement
from jobs.pipeline.stages import WHOLE
from jobs.running.session import ray_session
from tests.benchmarks.running import run_made
from vit_actor.simulated import SimulatedTiming, SimulatedVit

TIMING = "compute=10ms,upload=5ms,readback=5ms,compile=0s"
COMPUTE_SECONDS = 10e-3
SHARDS = 40
SHARD_CHUNKS = 8
ROUNDS = 3
PLACEMENT = Placement("simulated", actors=1, cpus=0.5, boards=0, decode_cpus=0.5)


def open_device() -> SimulatedVit:
    return SimulatedVit(SimulatedTiming.from_spec(TIMING))


def shards() -> ray.data.Dataset:
    """One block each, as the pipeline's are; reading a range would take a core from the tasks that make chunks."""
    return ray.data.from_items([{"id": shard} for shard in range(SHARDS)], override_num_blocks=SHARDS)


def make_chunks(table: pa.Table, *, images: int, pauses: bool) -> Any:
    """Chunks that cost next to nothing, evenly or in bursts: with `pauses`, every eighth comes half a second late."""
    pixels = np.zeros((images, 224, 224, 3), np.uint8)
    for shard in table["id"].to_pylist():
        for number in range(SHARD_CHUNKS):
            if pauses and number % 8 == 7:
                time.sleep(0.5)
            name = f"{shard:05d}.{number}"
            yield Chunk(name, [f"{name}-{i}" for i in range(images)], [0] * images, [None] * images, pixels).to_table()


def busy(*, pauses: bool) -> tuple[int, float]:
    """The real stages on made-up chunks: images, and the device's active span in seconds from the predictions."""
    with tempfile.TemporaryDirectory() as out:
        chunks = shards().map_batches(functools.partial(make_chunks, images=CHUNK_IMAGES, pauses=pauses), **WHOLE, num_cpus=0.5)
        deque(run_made(chunks, open_device, PLACEMENT, out), maxlen=0)
        rows = pq.read_table(Path(out) / "predictions", columns=["started_at", "batch_seconds"])
    return rows.num_rows, _span(rows)


class CallPerBatch:
    """The plain way: one call a batch, which waits for its answer."""

    def __init__(self) -> None:
        self._device = open_device()
        self._device.compile()

    def __call__(self, table: pa.Table) -> pa.Table:
        (result,) = self._device.classify([Chunk.from_table(table).pixels])
        return pa.table({"started_at": [result.started_at], "batch_seconds": [result.seconds], "images": [len(result.classes)]})


def call_per_batch() -> tuple[int, float]:
    classified = (
        shards()
        .map_batches(functools.partial(make_chunks, images=64, pauses=False), **WHOLE, num_cpus=0.5)
        .map_batches(CallPerBatch, **WHOLE, compute=ActorPoolStrategy(size=1), num_cpus=0.5)
    )
    rows = pa.concat_tables(classified.iter_batches(batch_size=None, batch_format="pyarrow"))
    return sum(rows["images"].to_pylist()), _span(rows)


def _span(rows: pa.Table) -> float:
    started = rows["started_at"]
    seconds = np.array(started.cast(pa.int64()), float) / 1e6 if pa.types.is_timestamp(started.type) else np.array(started)
    return float((seconds + np.array(rows["batch_seconds"])).max() - seconds.min())


def main() -> None:
    alternatives: dict[str, Callable[[], tuple[int, float]]] = {
        "one call a batch, waited for": call_per_batch,
        "this pipeline, chunks always ready": lambda: busy(pauses=False),
        "this pipeline, chunks in bursts": lambda: busy(pauses=True),
    }
    shares: dict[str, list[float]] = {name: [] for name in alternatives}
    with ray_session(None, needed=("ray.data",)):
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.data.DataContext.get_current().target_max_block_size = 1
        for current in range(-1, ROUNDS):  # the first round starts workers and does not count
            for name, run in alternatives.items():
                images, span = run()
                if current >= 0:
                    shares[name].append(images / 64 * COMPUTE_SECONDS / span)
    print("Share of its compute bound that a simulated device reaches (10 ms compute, 5 ms upload, 5 ms read-back a batch of 64)")
    print(f"{'':44} {'median':>8} {'least':>8} {'most':>8}")
    for name, values in shares.items():
        print(f"{name:44} {statistics.median(values):8.1%} {min(values):8.1%} {max(values):8.1%}")
    path = Path("out/benchmarks/overlap.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"name": list(shares), "busy_shares": list(shares.values())}), path)


if __name__ == "__main__":
    main()
