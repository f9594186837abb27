"""What a chunk costs the job's own process, whose one scheduling loop bounds how many images/s a job can hand out.

python -m tests.benchmarks.driver [chunks]        800 by default; more tell better what memory stays
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from jobs.pipeline.chunk import CHUNK_IMAGES
from jobs.pipeline.placement import Placement
from jobs.pipeline.stages import WHOLE
from jobs.running.session import ray_session
from tests.benchmarks.bench import machine
from tests.benchmarks.overlap import SHARD_CHUNKS, make_chunks
from tests.benchmarks.running import run_made
from vit_actor.simulated import SimulatedTiming, SimulatedVit

FEW = 80
"""Chunks of a short run, whose difference to a long one leaves out what starting costs."""

ROUNDS = 3
PLACEMENT = Placement("simulated", actors=1, cpus=0.5, boards=0, decode_cpus=0.5)


def open_device() -> SimulatedVit:
    return SimulatedVit(SimulatedTiming.from_spec("compute=1us,upload=0us,readback=0us,compile=0s"))


def cost(chunks: int) -> tuple[float, int]:
    """CPU time of this process while so many chunks of one image go through the stages; bytes it grew by after the first FEW."""
    with tempfile.TemporaryDirectory() as out:
        shards = chunks // SHARD_CHUNKS
        made = ray.data.range(shards, override_num_blocks=shards).map_batches(
            functools.partial(make_chunks, images=1, pauses=False), **WHOLE, num_cpus=0.5
        )
        began = time.process_time()
        grown = images = 0
        for done, chunk in enumerate(run_made(made, open_device, PLACEMENT, out), start=1):
            images += chunk["images"]
            grown -= resident() if done == FEW else 0
        grown += resident()
        assert images == chunks
        return time.process_time() - began, grown


def resident() -> int:
    """Bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    with ray_session(None, needed=("ray.data",)):
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.data.DataContext.get_current().target_max_block_size = 1
        cost(FEW)  # starts workers and does not count
        pairs = [(cost(many), cost(FEW)) for _ in range(ROUNDS)]
    each = [(long[0] - short[0]) / (many - FEW) for long, short in pairs]
    memory = [long[1] / (many - FEW) for long, _ in pairs]
    median = statistics.median(each)
    print(f"What a chunk costs the driver, {ROUNDS} rounds of {many} and {FEW} chunks\n{machine()}")
    print(f"median {median * 1e3:.1f} ms, least {min(each) * 1e3:.1f}, most {max(each) * 1e3:.1f}; "
          f"at {CHUNK_IMAGES} images a chunk {CHUNK_IMAGES / median:,.0f} images/s a job")  # fmt: skip
    print(f"memory that stays until the run ends: {', '.join(f'{bytes_ / 1e3:.1f}' for bytes_ in memory)} KB a chunk, by round")
    path = Path("out/benchmarks/driver.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"seconds_a_chunk": each, "bytes_a_chunk": memory}), path)


if __name__ == "__main__":
    main()
