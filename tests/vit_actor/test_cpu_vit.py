"""The CPU device answers what transformers answers, in order, whatever the batches look like."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from tests.vit_actor.agreement import SAMPLE, digits
from tests.vit_actor.contract import check_device
from vit_actor.checkpoint import load_checkpoint
from vit_actor.cpu_vit import CpuVit
from vit_actor.errors import DeviceError

IMAGES = sorted((SAMPLE / "images").glob("*/*.jpeg"))
LABELS = np.array([int(path.parent.name) for path in IMAGES])

Precision = Literal["auto", "fp32"]

both = pytest.mark.parametrize("precision", ["auto", "fp32"])


@pytest.fixture(scope="module", autouse=True)
def torch_threads() -> Iterator[None]:
    """The device sets torch's thread count for its process; other tests keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """The held-out images, resized: uint8 (500, 64, 64, 3)."""
    return digits()[0]


def opened(precision: Precision, model: Path = SAMPLE / "model", threads: int = 1, held: tuple[int, ...] | None = None) -> CpuVit:
    return CpuVit(load_checkpoint(str(model)), threads=threads, precision=precision, held=held)


@pytest.fixture(scope="module")
def devices() -> Iterator[dict[Precision, CpuVit]]:
    devices: dict[Precision, CpuVit] = {"auto": opened("auto", threads=2), "fp32": opened("fp32")}
    began = time.monotonic()
    assert 0 < sum(device.compile() for device in devices.values()) <= time.monotonic() - began
    yield devices
    for device in devices.values():
        device.close()


def reference_log_probabilities(directory: Path, count: int) -> np.ndarray:
    """transformers alone, from JPEG to log softmax: float32 (count, classes)."""
    processor = ViTImageProcessorPil.from_pretrained(directory)
    model = ViTForImageClassification.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(**processor([Image.open(path) for path in IMAGES[:count]], return_tensors="pt")).logits
    return logits.log_softmax(1).numpy()


def assert_matches(device: CpuVit, pixels: np.ndarray, reference: np.ndarray, *, first: bool = True) -> None:
    """first: whether the best class must be the same, which a random model's close answers need not have."""
    (result,) = device.classify([pixels[: len(reference)]])
    assert not first or np.array_equal(result.classes[:, 0], np.argsort(-reference, axis=1, kind="stable")[:, 0])
    tolerance = 1e-4 if "float32" in device.description else 0.1 if first else 0.05  # bfloat16 keeps 8 bits
    expected = np.take_along_axis(reference, result.classes, axis=1)
    assert np.abs(np.log(result.probabilities) - expected).max() < tolerance


@both
def test_it_is_a_device(devices: dict[Precision, CpuVit], pixels: np.ndarray, precision: Precision) -> None:
    check_device(devices[precision], lambda count, seed: pixels[seed % 8 * 50 :][:count], ahead=2 if precision == "auto" else 0)


@pytest.mark.parametrize(("side", "patch"), [((24, 16), 8), ((16, 24), (8, 4)), ((21, 26), (4, 8))])
def test_images_and_patches_may_be_oblong_and_leave_an_edge(
    tmp_path: Path, side: tuple[int, int], patch: int | tuple[int, int]
) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1, "num_labels": 10}
    model = ViTForImageClassification(ViTConfig(image_size=side, patch_size=patch, initializer_range=0.1, **sizes)).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessorPil(size=dict(zip(("height", "width"), side, strict=True))).save_pretrained(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (5, *side, 3), np.uint8)
    with torch.inference_mode():
        reference = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).logits.log_softmax(1).numpy()
    assert_matches(opened("auto", tmp_path), images, reference, first=False)


def as_it_is(model: Path) -> None:
    pass


def half_precision(model: Path) -> None:
    weights = model / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})


def channels_of_their_own(model: Path) -> None:
    config = model / "preprocessor_config.json"
    changed = {"image_mean": [0.3, 0.5, 0.6], "image_std": [0.4, 0.5, 0.7]}
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))


@both
@pytest.mark.parametrize("change", [as_it_is, half_precision, channels_of_their_own])
def test_a_checkpoint_is_answered_as_transformers_does(
    tmp_path: Path, pixels: np.ndarray, precision: Precision, change: Callable[[Path], None]
) -> None:
    change(model := Path(shutil.copytree(SAMPLE / "model", tmp_path / "model")))
    assert_matches(opened(precision, model), pixels, reference_log_probabilities(model, 32))


def test_auto_agrees_with_the_reference_on_the_held_out_images(devices: dict[Precision, CpuVit], pixels: np.ndarray) -> None:
    auto, fp32 = (
        np.concatenate([result.classes[:, 0] for result in device.classify(np.array_split(pixels, 8))])
        for device in devices.values()
    )
    assert np.mean(auto == fp32) >= 0.995
    assert np.mean(fp32 == LABELS) >= 0.96
    assert abs(np.mean(auto == LABELS) - np.mean(fp32 == LABELS)) <= 0.003


@both
def test_the_best_of_the_classes_that_the_data_holds_is_told_beside(pixels: np.ndarray, precision: Precision) -> None:
    (result,) = opened(precision, held=(2, 7)).classify([pixels[::100]])
    assert result.held is not None
    assert set(result.held.tolist()) <= {2, 7}
    for held, best in zip(result.held.tolist(), result.classes.tolist(), strict=True):
        if {2, 7} <= set(best):
            assert held == min(2, 7, key=best.index)


@both
def test_closing_twice_is_harmless_and_a_closed_device_refuses_work(pixels: np.ndarray, precision: Precision) -> None:
    device = opened(precision)
    answers = device.classify([pixels[:4]] * 8)
    next(answers)
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="closed"):
        list(answers)
    with pytest.raises(DeviceError, match="closed"):
        device.classify([pixels[:4]])


def test_the_reference_computes_on_as_many_threads_as_it_is_given() -> None:
    for threads in (2, 1):
        opened("fp32", threads=threads).compile()
        assert torch.get_num_threads() == threads


def test_openvinos_usage_reporting_is_never_loaded(devices: dict[Precision, CpuVit]) -> None:
    assert "openvino.tools.ovc" in sys.modules
    assert [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module] == []
