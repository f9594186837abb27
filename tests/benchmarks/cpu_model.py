"""ViT-Base on the CPU: the device's own choice beside eager torch, in batches of 8, and the products that bound both.

python -m tests.benchmarks.cpu_model
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.bench import interleave, report
from tests.benchmarks.corpora import random_checkpoint
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.cpu_vit import CpuVit, ov

BATCH = 8


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = load_checkpoint(str(random_checkpoint(Path(directory))))
        for threads in (1, 2):
            # One thread is timed by its CPU seconds, which other programs on the machine do not lengthen.
            clock, unit = (time.process_time, "CPU seconds") if threads == 1 else (time.perf_counter, "wall time")
            rates = interleave(alternatives(checkpoint, threads), 5, clock)
            title = f"ViT-Base/16, random weights, batches of {BATCH}, threads: {threads}, by {unit}"
            report(title, rates, "torch eager float32")


def alternatives(checkpoint: Checkpoint, threads: int) -> dict[str, Callable[[], int]]:
    """Ways to classify as many batches as there are threads; each gives the number of images."""
    measured = {
        "torch eager float32": device(checkpoint, threads, "fp32"),
        "the device's choice": device(checkpoint, threads, "auto"),
        "as many FLOP of float32 matrix product alone": products(checkpoint, threads, torch.float32),
    }
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        measured["as many FLOP of bfloat16 matrix product alone"] = products(checkpoint, threads, torch.bfloat16)
    return measured


def device(checkpoint: Checkpoint, threads: int, precision: Any) -> Callable[[], int]:
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, *checkpoint.preprocess.shape), dtype=np.uint8)
    vit = CpuVit(checkpoint, batch_size=BATCH, threads=threads, precision=precision)
    vit.compile()
    print(vit.description, flush=True)
    return lambda: sum(len(result.classes) for result in vit.classify([pixels] * threads))


def products(checkpoint: Checkpoint, threads: int, kind: torch.dtype) -> Callable[[], int]:
    """The CPU's own bound: the forward pass's multiplications as nothing but products of the MLP's shape."""
    config = checkpoint.config
    rows, inner, columns = BATCH * 197, config.hidden_size, config.intermediate_size
    left, right = torch.randn(rows, inner).to(kind), torch.randn(inner, columns).to(kind)
    out = torch.empty(rows, columns, dtype=kind)
    times = round(checkpoint.flops * BATCH / (2 * rows * inner * columns))

    def run() -> int:
        for _ in range(times * threads):
            torch.mm(left, right, out=out)
        return BATCH * threads

    return run


if __name__ == "__main__":
    main()
