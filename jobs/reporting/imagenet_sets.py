"""Test sets of ImageNet's classes that define accuracy in their own way, told from the images' ids.

- ReaL: Beyer, Henaff, Kolesnikov, Zhai, van den Oord, "Are we done with ImageNet?", 2020. An image has several right classes;
  those without any are left out. Labels: `real.json`, one list of classes for each image of the validation set, in its order.
- ImageNet-C: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
  ICLR 2019. Folders <corruption>/<severity>/<class>. The mean is over corruptions, of the mean over each one's severities.
- ImageNet-A, R and O-like sets hold fewer classes than the checkpoint knows: accuracy among those alone is counted from the
  predictions' own column held_prediction.
"""

import json

from jobs.storage.address import shown
from jobs.storage.failure import storage_errors
from jobs.storage.files import open_file, open_storage
from vit_actor.errors import UserError

Real = list[list[int]]  # Right classes of the n-th image of the validation set, from 0

IMAGENET_CLASSES = 1000
MOST_REAL_BYTES = 64 << 20  # The published file has 1 MB

CORRUPTED = (
    "(?:^|/)(gaussian_noise|shot_noise|impulse_noise|defocus_blur|glass_blur|motion_blur|zoom_blur|snow|frost|fog|brightness|"
    "contrast|elastic_transform|pixelate|jpeg_compression|speckle_noise|gaussian_blur|spatter|saturate)/([1-5])/"
)
"""An image's corruption, of the benchmark's 15 and its 4 extra ones, and severity, by its id."""

VALIDATION_NUMBER = "try_cast(regexp_extract(image_id, 'ILSVRC2012_val_([0-9]{8})', 1) AS BIGINT)"
"""SQL of an image's number in the validation set, from 1; null of other images."""


def read_real(uri: str) -> Real:
    """The labels in a `real.json`. Raises UserError for a file that is none."""
    filesystem, path = open_storage(uri)
    with storage_errors(uri), open_file(filesystem, path) as file:
        data = file.read(MOST_REAL_BYTES)
    try:
        real = json.loads(data)
        right = [classes for image in real for classes in image]
    except (ValueError, TypeError, RecursionError):
        real, right = None, []
    if not right or not all(type(label) is int and 0 <= label < IMAGENET_CLASSES for label in right):
        raise UserError(f"{shown(uri)}: not ReaL's labels; give real.json, a list of classes 0-999 for each validation image")
    return real
