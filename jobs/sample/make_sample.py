"""Render scikit-learn's handwritten digits to JPEG and write the held-out part to jobs/sample/images/<digit>/."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SAMPLE = Path(__file__).parent

HELD_OUT = 500
"""The last 500 of 1797 digits. Neighbouring digits share writers, so a split by position
keeps writers apart, save one at the boundary; a random split would put every writer on both sides."""

SIZE = (128, 104)
"""JPEG width and height: larger than the model's 64x64 and not square, so that classifying one decodes and resizes."""

MARGIN = 12
PAPER, INK = (250, 244, 228), (24, 36, 104)  # Cream and navy: unequal channels, so that a swap of red and blue changes the answer


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All digits in the data set's order: ink uint8 (1797, 8, 8) from 0 to 16, and labels int64 (1797,)."""
    data = load_digits()
    return data.images.astype(np.uint8), data.target.astype(np.int64)


def render(ink: np.ndarray) -> bytes:
    """One digit, ink (8, 8) from 0 to 16, as a JPEG of SIZE with a margin of paper."""
    inner = (SIZE[0] - 2 * MARGIN, SIZE[1] - 2 * MARGIN)
    mask = Image.fromarray((ink.astype(np.float32) * (255 / 16)).round().astype(np.uint8))
    image = Image.new("RGB", SIZE, PAPER)
    image.paste(INK, (MARGIN, MARGIN), mask.resize(inner, Image.Resampling.BICUBIC))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=90)
    return jpeg.getvalue()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # knows --help alone
    images, labels = digits()
    for index in range(len(images) - HELD_OUT, len(images)):
        path = SAMPLE / "images" / str(labels[index]) / f"digit-{index:04d}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(render(images[index]))
    print(f"{HELD_OUT} images in {SAMPLE / 'images'}")


if __name__ == "__main__":
    main()
