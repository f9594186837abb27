"""The job as Ray Data's documentation has it: read_images, then processor and model in map_batches on an actor pool."""

from __future__ import annotations

import os
import sys

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy
from transformers import ViTForImageClassification, ViTImageProcessor


class Classifier:
    """Processor and model as their documentation uses them."""

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._processor = ViTImageProcessor.from_pretrained(model)
        self._model = ViTForImageClassification.from_pretrained(model).eval()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs = self._processor(images=list(batch["image"]), return_tensors="pt")
        with torch.inference_mode():
            return {"path": batch["path"], "prediction": self._model(**inputs).logits.argmax(-1).numpy()}


def main() -> None:
    """One actor that reserves a core but computes on all, so that reading can run beside it."""
    data, model, out = sys.argv[1:]
    cores = len(os.sched_getaffinity(0))
    ray.init(address="local")  # else it may wait for a cluster of this machine that has ended and is still noted in /tmp/ray
    images = ray.data.read_images(data, mode="RGB", include_paths=True)
    predicted = images.map_batches(
        Classifier,
        fn_constructor_args=(model, cores),
        batch_size=64,
        compute=ActorPoolStrategy(size=1),
        num_cpus=max(1, cores - 1),
    )
    predicted.write_parquet(out)


if __name__ == "__main__":
    main()
