"""JPEG to uint8 224x224x3 on one core: this project's decode beside transformers' processors, Pillow, and its own two halves.

python -m tests.benchmarks.decode
"""

import io
import os
import time
from collections.abc import Callable
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

JPEGS = [encoded(photograph(seed)) for seed in range(32)]
UINT8: dict[str, Any] = {"do_rescale": False, "do_normalize": False}
"""Without rescaling and normalising, which this project leaves to the device: the processors' best case."""


def over_all(work: Callable[[bytes], object]) -> Callable[[], int]:
    return lambda: len([work(jpeg) for jpeg in JPEGS])


def processed(processor: Any) -> Callable[[], int]:
    return over_all(lambda jpeg: processor(Image.open(io.BytesIO(jpeg))))


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    preprocess = Preprocess.from_config({})
    out = np.empty(preprocess.shape, np.uint8)
    same_pixels = encoded(Image.open(io.BytesIO(JPEGS[0])), "PNG")
    alternatives = {
        "transformers, PIL": processed(ViTImageProcessorPil()),
        "transformers, torchvision": processed(ViTImageProcessor()),
        "transformers, PIL, uint8": processed(ViTImageProcessorPil(**UINT8)),
        "transformers, torchvision, uint8": processed(ViTImageProcessor(**UINT8)),
        "decode": over_all(lambda jpeg: decode(jpeg, preprocess, out)),
        "its libjpeg-turbo half": over_all(simplejpeg.decode_jpeg),
        "decode of PNG": over_all(lambda _: decode(same_pixels, preprocess, out)),
    }
    rates = interleave(alternatives, 15, clock=time.process_time)
    size = sum(map(len, JPEGS)) / len(JPEGS) / 1e3
    report(f"{len(JPEGS)} JPEGs of 500x375, {size:.0f} kB each, per CPU second of one core", rates, "transformers, PIL")
    print(accuracy(preprocess))


def accuracy(preprocess: Preprocess) -> str:
    """How far the pixels are from those of transformers' PIL processor, in one line."""
    processor = ViTImageProcessorPil(**UINT8)
    out = np.empty(preprocess.shape, np.uint8)
    difference = np.zeros(256, np.int64)
    for jpeg in JPEGS:
        decode(jpeg, preprocess, out)
        reference = processor(Image.open(io.BytesIO(jpeg)))["pixel_values"][0].transpose(1, 2, 0)
        difference += np.bincount(np.abs(out.astype(int) - reference).ravel(), minlength=256)
    shares = difference / difference.sum()
    return f"pixels: {shares[0]:.3%} identical, {shares[:2].sum():.3%} within one level, worst {difference.nonzero()[0].max()}"


if __name__ == "__main__":
    main()
