"""ViT-Base on the CPU: the device's own choice beside eager torch and the other ways to run it, in batches of 8.

python -m tests.benchmarks.cpu_model
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from tests.benchmarks.bench import interleave, report
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.cpu_vit import CpuVit, openvino_graph, ov

BATCH = 8
EAGER = "torch eager float32"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--model", help="a checkpoint; ViT-Base with random weights where not given")
    arguments.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = load_checkpoint(options.model or random_vit_base(directory))
        for threads in options.threads:
            # One thread is timed by its CPU seconds, which other programs on the machine do not lengthen.
            clock = time.process_time if threads == 1 else time.perf_counter
            unit = "CPU seconds" if threads == 1 else "wall time"
            runs = interleave(alternatives(checkpoint, threads), options.rounds, clock)
            report(
                f"{options.model or 'ViT-Base/16, random weights'}, batches of {BATCH}, threads: {threads}, by {unit}",
                runs,
                EAGER,
                options.out / f"cpu_model_{threads}.parquet",
            )


def random_vit_base(directory: str) -> str:
    """Write google/vit-base-patch16-224's architecture with random weights, seeded; the directory."""
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(directory)
    ViTImageProcessor().save_pretrained(directory)
    return directory


def alternatives(checkpoint: Checkpoint, threads: int) -> dict[str, Callable[[], int]]:
    """Ways to classify as many batches as there are threads; each gives the number of images."""
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, *checkpoint.preprocess.shape), dtype=np.uint8)

    def device(precision: Any, matmul: str) -> Callable[[], int]:
        vit = CpuVit(checkpoint, batch_size=BATCH, threads=threads, precision=precision)
        vit.compile()
        print(vit.description, flush=True)

        def run() -> int:
            torch.set_float32_matmul_precision(matmul)
            return sum(len(result.classes) for result in vit.classify([pixels] * threads))

        return run

    graph = openvino_graph(checkpoint)

    def openvino(precision: str, piece: int, streams: int) -> Callable[[], int]:
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,
        }
        requests = ov.AsyncInferQueue(ov.Core().compile_model(graph, "CPU", settings), 2 * streams)

        def run() -> int:
            for _ in range(threads):
                for start in range(0, BATCH, piece):
                    requests.start_async({0: pixels[start : start + piece]})
            requests.wait_all()
            return BATCH * threads

        return run

    measured = {
        EAGER: device("fp32", "highest"),
        f'{EAGER}, matmul precision "medium"': device("fp32", "medium"),
        "the device's choice": device("auto", "highest"),
        "OpenVINO f32, one image at a time": openvino("f32", piece=1, streams=threads),
        "OpenVINO f32, 8 at a time": openvino("f32", piece=8, streams=threads),
    }
    if threads > 1:
        measured["OpenVINO f32, one stream of all threads"] = openvino("f32", piece=BATCH, streams=1)
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        measured["OpenVINO f32, 4 at a time"] = openvino("f32", piece=4, streams=threads)
        measured["torch eager bfloat16"] = eager_bfloat16(checkpoint, pixels, threads)
        measured["as many FLOP of bfloat16 matrix product alone"] = products(checkpoint, threads, torch.bfloat16)
    measured["as many FLOP of float32 matrix product alone"] = products(checkpoint, threads, torch.float32)
    return measured


def eager_bfloat16(checkpoint: Checkpoint, pixels: np.ndarray, threads: int) -> Callable[[], int]:
    model = ViTForImageClassification.from_pretrained(checkpoint.path, dtype=torch.bfloat16).eval()
    scale, shift = torch.tensor(checkpoint.preprocess.scale), torch.tensor(checkpoint.preprocess.shift)

    def run() -> int:
        with torch.inference_mode():
            for _ in range(threads):
                normalised = torch.from_numpy(pixels).float() * scale + shift
                model(pixel_values=normalised.permute(0, 3, 1, 2).bfloat16()).logits.argmax(1)
        return BATCH * threads

    return run


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
