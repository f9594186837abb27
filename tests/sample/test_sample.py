"""The bundled sample: held-out images, a model that never saw them, and the accuracy its README states."""

import io
import re
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTForImageClassification, ViTImageProcessor, ViTImageProcessorPil

from jobs.sample.make_sample import HELD_OUT, SAMPLE, digits, render
from vit_actor.checkpoint import load_checkpoint

IMAGES = sorted((SAMPLE / "images").glob("*/*.jpeg"))


def _index(path: Path) -> int:
    return int(path.stem.removeprefix("digit-"))


def _decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_the_images_are_the_held_out_digits_under_their_true_labels_and_not_what_the_model_was_trained_on() -> None:
    ink, labels = digits()
    assert sorted(map(_index, IMAGES)) == list(range(len(ink) - HELD_OUT, len(ink)))
    assert all(int(path.parent.name) == labels[_index(path)] for path in IMAGES)
    for path in IMAGES[::10]:
        difference = np.abs(_decoded(path.read_bytes()).astype(int) - _decoded(render(ink[_index(path)])))
        assert difference.max() <= 2  # another libjpeg may round differently
    trained_on = {_decoded(render(digit)).tobytes() for digit in ink[:-HELD_OUT]}
    assert len(trained_on) == len(ink) - HELD_OUT
    assert not trained_on & {_decoded(path.read_bytes()).tobytes() for path in IMAGES}
    assert not {digit.tobytes() for digit in ink[:-HELD_OUT]} & {digit.tobytes() for digit in ink[-HELD_OUT:]}


@pytest.mark.parametrize("processor_class", [ViTImageProcessor, ViTImageProcessorPil])
def test_transformers_alone_finds_the_accuracy_the_readme_states(processor_class: Any) -> None:
    model = ViTForImageClassification.from_pretrained(SAMPLE / "model").eval()
    processor = processor_class.from_pretrained(SAMPLE / "model")
    correct = 0
    with torch.inference_mode():
        for paths in batched(IMAGES, 100):
            inputs = processor([Image.open(path) for path in paths], return_tensors="pt")
            predictions = model(**inputs).logits.argmax(1).tolist()
            correct += sum(model.config.id2label[p] == path.parent.name for p, path in zip(predictions, paths, strict=True))
    stated = re.search(r"(\d+) of (\d+)", (SAMPLE / "README.md").read_text())
    assert stated
    assert (correct, len(IMAGES)) == (int(stated[1]), int(stated[2]))
    assert correct / len(IMAGES) >= 0.96


def test_the_files_are_small_and_decoding_has_to_resize_them_and_does_not_keep_the_aspect_ratio() -> None:
    height, width, _ = load_checkpoint(str(SAMPLE / "model")).preprocess.shape
    sizes = [Image.open(path).size for path in IMAGES]
    assert all(x > width and y > height and x * height != y * width for x, y in sizes)
    assert (SAMPLE / "model" / "model.safetensors").stat().st_size < 1_200_000
    assert sum(path.stat().st_size for path in IMAGES) < 1_500_000
