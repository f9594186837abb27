"""What streaming costs: decoding through Ray Data to a device that answers at once, against a plain multiprocessing pool.

python -m tests.benchmarks.pipeline
"""

import math
import multiprocessing
import os
import tempfile
from pathlib import Path

import numpy as np

from jobs.pipeline.decode import decode
from jobs.pipeline.placement import Placement, decode_tasks
from jobs.running.session import ray_session
from tests.benchmarks.bench import interleave, report
from tests.benchmarks.corpora import TINY, photo_folder, random_checkpoint
from tests.benchmarks.running import run_pipeline
from vit_actor.checkpoint import load_checkpoint
from vit_actor.preprocess import Preprocess

IMAGES = 49_152  # About as many as ImageNet's validation set: starting is part of the time, as it is of a run's


def decode_files(work: tuple[list[Path], Preprocess]) -> int:
    """The pool's task: read and decode, keep nothing."""
    paths, preprocess = work
    out = np.empty(preprocess.shape, np.uint8)
    for path in paths:
        decode(path.read_bytes(), preprocess, out)
    return len(paths)


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    each = math.floor(cores / decode_tasks(cores) * 1e4) / 1e4
    placement = Placement("simulated", actors=1, cpus=0, boards=0, decode_cpus=each)
    with tempfile.TemporaryDirectory() as scratch:
        data = photo_folder(Path(scratch) / "data", IMAGES)
        model = random_checkpoint(Path(scratch) / "model", **TINY)
        preprocess, paths = load_checkpoint(str(model)).preprocess, sorted(data.iterdir())
        parts = [(paths[i : i + 512], preprocess) for i in range(0, IMAGES, 512)]
        with multiprocessing.get_context("spawn").Pool(cores) as pool, ray_session(None, needed=("ray.data",)):
            alternatives = {
                "multiprocessing pool": lambda: sum(pool.imap_unordered(decode_files, parts)),
                "this pipeline, end to end": lambda: run_pipeline(data, model, placement),
            }
            rates = interleave(alternatives, rounds=2)
    title = f"Decode of {IMAGES:,} photographs on {cores} cores; the pipeline's device is simulated and answers at once"
    report(title, rates, "multiprocessing pool")


if __name__ == "__main__":
    main()
