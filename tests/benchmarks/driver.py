"""What a chunk costs the job's own process, whose one scheduling loop bounds how many images/s a job can hand out.

python -m tests.benchmarks.driver [chunks]        800 by default; more tell better what memory stays
"""

import statistics
import tempfile
import time

import psutil

from jobs.pipeline.chunk import CHUNK_IMAGES
from tests.benchmarks.bench import argument, machine
from tests.benchmarks.overlap import SHARD_CHUNKS, made
from tests.benchmarks.running import run_made, session, simulated

FEW = 80  # Chunks of a short run, whose difference to a long one leaves out what starting costs
ROUNDS = 3


def cost(chunks: int) -> tuple[float, int]:
    """CPU time of this process while so many chunks of one image go through the stages; bytes it grew by after the first FEW."""
    with tempfile.TemporaryDirectory() as out:
        began, memory = time.process_time(), psutil.Process().memory_info
        grown = images = 0
        for done, chunk in enumerate(run_made(made(chunks // SHARD_CHUNKS, 1), simulated, out), start=1):
            images += chunk["images"]
            grown -= memory().rss if done == FEW else 0
        assert images == chunks
        return time.process_time() - began, grown + memory().rss


def main() -> None:
    many = argument(1, 800)
    with session():
        cost(FEW)  # starts workers and does not count
        pairs = [(cost(many), cost(FEW)) for _ in range(ROUNDS)]
    each = [(long[0] - short[0]) / (many - FEW) for long, short in pairs]
    memory = ", ".join(f"{long[1] / (many - FEW) / 1e3:.1f}" for long, _ in pairs)
    median = statistics.median(each)
    print(f"What a chunk costs the driver, {ROUNDS} rounds of {many} and {FEW} chunks\n{machine()}")
    print(f"median {median * 1e3:.1f} ms, least {min(each) * 1e3:.1f}, most {max(each) * 1e3:.1f}")
    print(f"at {CHUNK_IMAGES} images a chunk {CHUNK_IMAGES / median:,.0f} images/s a job")
    print(f"memory that stays until the run ends: {memory} KB a chunk, by round")


if __name__ == "__main__":
    main()
