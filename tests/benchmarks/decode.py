"""JPEG to uint8 224x224x3 on one core: this project's decode beside transformers' processors, Pillow, and its own two halves."""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from transformers import ViTImageProcessor, ViTImageProcessorPil

from jobs.pipeline.decode import decode
from tests.benchmarks.bench import interleave, report
from tests.photographs import encoded, photograph
from vit_actor.preprocess import Preprocess


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=32, help="different photographs of 500x375")
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--out", type=Path, default=Path("out/benchmarks/decode.parquet"))
    options = arguments.parse_args()

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    jpegs = [encoded(photograph(seed)) for seed in range(options.images)]
    preprocess = Preprocess.from_config({})
    out = np.empty(preprocess.shape, np.uint8)
    # Without rescaling and normalising, which this project leaves to the device: the processors' best case.
    uint8: dict[str, Any] = {"do_rescale": False, "do_normalize": False}
    whole_pil, whole_torchvision = ViTImageProcessorPil(), ViTImageProcessor()
    uint8_pil, uint8_torchvision = ViTImageProcessorPil(**uint8), ViTImageProcessor(**uint8)
    same_pixels = encoded(Image.open(io.BytesIO(jpegs[0])), "PNG")

    def over_all(work: Callable[[bytes], object]) -> Callable[[], int]:
        def run() -> int:
            for jpeg in jpegs:
                work(jpeg)
            return len(jpegs)

        return run

    runs = interleave(
        {
            "transformers, PIL": over_all(lambda jpeg: whole_pil(Image.open(io.BytesIO(jpeg)))),
            "transformers, torchvision": over_all(lambda jpeg: whole_torchvision(Image.open(io.BytesIO(jpeg)))),
            "transformers, PIL, uint8": over_all(lambda jpeg: uint8_pil(Image.open(io.BytesIO(jpeg)))),
            "transformers, torchvision, uint8": over_all(lambda jpeg: uint8_torchvision(Image.open(io.BytesIO(jpeg)))),
            "Pillow alone": over_all(
                lambda jpeg: np.asarray(Image.open(io.BytesIO(jpeg)).resize((224, 224), Image.Resampling.BILINEAR))
            ),
            "decode": over_all(lambda jpeg: decode(jpeg, preprocess, out)),
            "its libjpeg-turbo half": over_all(simplejpeg.decode_jpeg),
            "decode of PNG": over_all(lambda _: decode(same_pixels, preprocess, out)),
        },
        options.rounds,
        clock=time.process_time,
    )
    size = sum(map(len, jpegs)) / len(jpegs) / 1e3
    report(
        f"{len(jpegs)} JPEGs of 500x375, {size:.0f} kB each, per CPU second of one core", runs, "transformers, PIL", options.out
    )
    print(accuracy(jpegs, preprocess))


def accuracy(jpegs: list[bytes], preprocess: Preprocess) -> str:
    """How far the pixels are from those of transformers' PIL processor, in one line."""
    processor = ViTImageProcessorPil(do_rescale=False, do_normalize=False)
    out = np.empty(preprocess.shape, np.uint8)
    difference = np.zeros(256, np.int64)
    for jpeg in jpegs:
        decode(jpeg, preprocess, out)
        reference = processor(Image.open(io.BytesIO(jpeg)))["pixel_values"][0].transpose(1, 2, 0)
        difference += np.bincount(np.abs(out.astype(int) - reference).ravel(), minlength=256)
    shares = difference / difference.sum()
    return f"pixels: {shares[0]:.3%} identical, {shares[:2].sum():.3%} within one level, worst {difference.nonzero()[0].max()}"


if __name__ == "__main__":
    main()
