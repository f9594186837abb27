"""Against the plain way: Ray Data's read_images, then Hugging Face's processor and model in map_batches on an actor pool.

python -m tests.benchmarks.peer
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy
from transformers import ViTForImageClassification, ViTImageProcessor

from jobs.placement import place
from jobs.session import ray_session
from tests.benchmarks.bench import interleave, report
from tests.benchmarks.corpora import photo_folder, random_checkpoint
from tests.benchmarks.running import run_pipeline
from vit_actor.checkpoint import load_checkpoint

ROUNDS = 2


class PlainClassifier:
    """Processor and model as their documentation uses them."""

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._processor = ViTImageProcessor.from_pretrained(model)
        self._model = ViTForImageClassification.from_pretrained(model).eval()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs = self._processor(images=list(batch["image"]), return_tensors="pt")
        with torch.inference_mode():
            return {"prediction": self._model(**inputs).logits.argmax(-1).numpy()}


def plain(data: Path, model: Path, cores: int) -> int:
    """One actor that reserves a core but computes on all, so that reading can run beside it."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 128 * 2**20  # Ray's default, which the pipeline changes
    context.enable_progress_bars = False
    with tempfile.TemporaryDirectory() as out:
        images = ray.data.read_images(str(data), mode="RGB")
        predicted = images.map_batches(
            PlainClassifier,
            fn_constructor_args=(str(model), cores),
            batch_size=64,
            compute=ActorPoolStrategy(size=1),
            num_cpus=max(1, cores - 1),
        )
        predicted.write_parquet(out)
        return ray.data.read_parquet(out).count()


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    for size, images in (("tiny", 8192), ("base", 192)):
        with tempfile.TemporaryDirectory() as scratch, ray_session(None):
            data = photo_folder(Path(scratch) / "data", images)
            model = random_checkpoint(Path(scratch) / "model", size)
            flops = load_checkpoint(str(model)).flops
            placement = place("cpu", boards=4, meshes=None, flops_per_image=flops, cpus_per_actor=None, wait_seconds=60)
            runs = interleave(
                {
                    "read_images, HF processor and model": lambda data=data, model=model: plain(data, model, cores),
                    "this pipeline": lambda data=data, model=model, placement=placement: run_pipeline(data, model, placement),
                },
                rounds=ROUNDS,
            )
        report(
            f"{images:,} photographs end to end, actors' start included, ViT of size '{size}' on {cores} cores",
            runs,
            "read_images, HF processor and model",
            Path(f"out/benchmarks/peer-{size}.parquet"),
        )


if __name__ == "__main__":
    main()
