"""Test sets of ImageNet's classes that define accuracy in their own way, told from the images' ids.

- ReaL: Beyer, Henaff, Kolesnikov, Zhai, van den Oord, "Are we done with ImageNet?", 2020. An image has several right classes;
  those without any are left out. Labels: `real.json`, one list of classes for each image of the validation set, in its order.
- ImageNet-C: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
  ICLR 2019. Folders <corruption>/<severity>/<class>. The mean is over corruptions, of the mean over each one's severities.
- ImageNet-A, R and O-like sets hold fewer classes than the checkpoint knows: accuracy among those alone is counted from the
  predictions' own column held_prediction.
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.storage import open_storage, shown, storage_errors
from vit_actor.errors import UserError

Real = list[list[int]]
"""Right classes of the n-th image of the validation set, from 0."""

IMAGENET_CLASSES = 1000
MOST_REAL_BYTES = 64 << 20
"""The published file has 1 MB."""

CORRUPTIONS = (
    "gaussian_noise|shot_noise|impulse_noise|defocus_blur|glass_blur|motion_blur|zoom_blur|snow|frost|fog|brightness|contrast|"
    "elastic_transform|pixelate|jpeg_compression|speckle_noise|gaussian_blur|spatter|saturate"
)
"""The 15 of the benchmark and its 4 extra ones."""

_CORRUPTED = rf"(?:^|/)(?P<corruption>{CORRUPTIONS})/(?P<severity>[1-5])/"
_VALIDATION = r"ILSVRC2012_val_(?P<number>[0-9]{8})"


def read_real(uri: str) -> Real:
    """The labels in a `real.json`. Raises UserError for a file that is none."""
    filesystem, path = open_storage(uri)
    with storage_errors(uri), filesystem.open_input_file(path) as file:
        data = file.read(MOST_REAL_BYTES)
    try:
        real = json.loads(data)
        right = [classes for image in real for classes in image]
    except (ValueError, TypeError, RecursionError):
        real, right = None, []
    if not right or not all(type(label) is int and 0 <= label < IMAGENET_CLASSES for label in right):
        raise UserError(f"{shown(uri)}: not ReaL's labels; give real.json, a list of classes 0-999 for each validation image")
    return real


def count_real(ids: pa.ChunkedArray, prediction: np.ndarray, real: Real) -> Counter[str]:
    """`images` with a right class, errors included, and those of them that are `correct`.

    ids: of images, those named ILSVRC2012_val_<8 digits> count. prediction: int (rows,), below 0 on error.
    """
    found = pc.extract_regex(ids, _VALIDATION)
    counted: Counter[str] = Counter()
    for name, best in zip(found.to_pylist(), prediction.tolist(), strict=True):
        if name is None or not 0 < (number := int(name["number"])) <= len(real):
            continue
        if right := real[number - 1]:
            counted["images"] += 1
            counted["correct"] += best in right
    return counted


def count_corruptions(ids: pa.ChunkedArray, label: np.ndarray, prediction: np.ndarray) -> tuple[Counter, Counter]:
    """Labelled images by (corruption, severity), errors included, and those of them whose prediction is the label."""
    if not pc.any(pc.match_substring_regex(ids, "/[1-5]/")).as_py():  # most data, told in a quarter of the other search's time
        return Counter(), Counter()
    found = pc.extract_regex(ids, _CORRUPTED)
    keys = [(each["corruption"], int(each["severity"])) if each else None for each in found.to_pylist()]
    pairs = [
        (key, best == true)
        for key, true, best in zip(keys, label.tolist(), prediction.tolist(), strict=True)
        if key and true >= 0
    ]
    return Counter(key for key, _ in pairs), Counter(key for key, right in pairs if right)


def mean_over_corruptions(images: Counter[tuple[str, int]], correct: Counter[tuple[str, int]]) -> float | None:
    """Mean corruption accuracy; None without corrupted images."""
    by_corruption: dict[str, list[float]] = {}
    for (corruption, severity), total in sorted(images.items()):
        by_corruption.setdefault(corruption, []).append(correct[corruption, severity] / total)
    means = [sum(each) / len(each) for each in by_corruption.values()]
    return sum(means) / len(means) if means else None
