"""What a chunk costs the job's own process, whose one scheduling loop bounds how many images/s a job can hand out.

python -m tests.benchmarks.driver
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from jobs.pipeline.chunk import CHUNK_IMAGES
from jobs.pipeline.commit import Predictions
from jobs.pipeline.placement import Placement
from jobs.pipeline.stream import WHOLE, classify
from jobs.running.ledgers import open_ledger
from jobs.running.session import ray_session
from tests.benchmarks.bench import machine
from tests.benchmarks.overlap import SHARD_CHUNKS, make_chunks
from vit_actor.simulated import SimulatedTiming, SimulatedVit

FEW, MANY = 80, 800
"""Chunks of two runs, whose difference leaves out what starting costs."""

ROUNDS = 3
PLACEMENT = Placement("simulated", actors=1, cpus=0.5, boards=0, decode_cpus=0.5)


def open_device() -> SimulatedVit:
    return SimulatedVit(SimulatedTiming.from_spec("compute=1us,upload=0us,readback=0us,compile=0s"))


def cpu_seconds(chunks: int) -> float:
    """CPU time of this process while so many chunks of one image go through the stages."""
    with tempfile.TemporaryDirectory() as out:
        shards = chunks // SHARD_CHUNKS
        made = ray.data.range(shards, override_num_blocks=shards).map_batches(
            functools.partial(make_chunks, images=1, pauses=False), **WHOLE, num_cpus=0.5
        )
        ledger = open_ledger(out)
        began = time.process_time()
        committed = classify(
            made,
            open_device,
            Predictions(out),
            placement=PLACEMENT,
            identity={"run_id": "driver", "attempt": 1, "versions": {}},
            ledger=ledger,
            limit_seconds=30,
        )
        assert sum(chunk["images"] for chunk in committed) == chunks
        seconds = time.process_time() - began
        ray.kill(ledger)  # it would live as long as this process, which is to run again
        return seconds


def main() -> None:
    with ray_session(None):
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.data.DataContext.get_current().target_max_block_size = 1
        cpu_seconds(FEW)  # starts workers and does not count
        each = [(cpu_seconds(MANY) - cpu_seconds(FEW)) / (MANY - FEW) for _ in range(ROUNDS)]
    median = statistics.median(each)
    print(f"The driver's CPU time for a chunk, {ROUNDS} rounds of {MANY} and {FEW} chunks\n{machine()}")
    print(f"median {median * 1e3:.1f} ms, least {min(each) * 1e3:.1f}, most {max(each) * 1e3:.1f}; "
          f"at {CHUNK_IMAGES} images a chunk {CHUNK_IMAGES / median:,.0f} images/s a job")  # fmt: skip
    path = Path("out/benchmarks/driver.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"seconds_a_chunk": each}), path)


if __name__ == "__main__":
    main()
