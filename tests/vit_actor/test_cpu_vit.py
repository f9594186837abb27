"""The CPU device answers what transformers answers, in order, whatever the batches look like."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.cpu_vit import CpuVit
from vit_actor.device import BatchResult
from vit_actor.errors import DeviceError

SAMPLE = Path(__file__).parents[2] / "jobs" / "sample"
IMAGES = sorted((SAMPLE / "images").glob("*/*.jpeg"))
LABELS = np.array([int(path.parent.name) for path in IMAGES])

Precision = Literal["auto", "fp32"]


@pytest.fixture(scope="module", autouse=True)
def torch_threads() -> Iterator[None]:
    """The device sets torch's thread count for its process; other tests keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """The held-out images as the reference processor resizes them, uint8 (500, 64, 64, 3)."""
    processor = ViTImageProcessorPil.from_pretrained(SAMPLE / "model")
    images = [Image.open(path) for path in IMAGES]
    resized = processor(images, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    return np.ascontiguousarray(np.asarray(resized).transpose(0, 2, 3, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def devices() -> Iterator[dict[str, CpuVit]]:
    checkpoint = load_checkpoint(str(SAMPLE / "model"))
    opened = {
        "auto": CpuVit(checkpoint, batch_size=64, threads=2),
        "fp32": CpuVit(checkpoint, batch_size=64, threads=1, precision="fp32"),
    }
    yield opened
    for device in opened.values():
        device.close()


@pytest.fixture(params=["auto", "fp32"])
def device(request: pytest.FixtureRequest, devices: dict[str, CpuVit]) -> CpuVit:
    return devices[request.param]


@pytest.fixture(scope="module")
def alone(devices: dict[str, CpuVit], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """By device, the best probability of the first 40 images, each classified in a batch of its own."""
    return {
        name: np.concatenate([result.probabilities[:, 0] for result in device.classify(pixels[i : i + 1] for i in range(40))])
        for name, device in devices.items()
    }


def _reference_log_probabilities(directory: Path, count: int) -> np.ndarray:
    """transformers alone, from JPEG to log softmax: float32 (count, classes)."""
    processor = ViTImageProcessorPil.from_pretrained(directory)
    model = ViTForImageClassification.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(**processor([Image.open(path) for path in IMAGES[:count]], return_tensors="pt")).logits
    return logits.log_softmax(1).numpy()


def _classify(device: CpuVit, pixels: np.ndarray, sizes: list[int]) -> list[BatchResult]:
    ends = np.cumsum(sizes)
    return list(device.classify(pixels[end - size : end] for size, end in zip(sizes, ends, strict=True)))


def _assert_matches(device: CpuVit, pixels: np.ndarray, reference: np.ndarray) -> None:
    (result,) = device.classify([pixels[: len(reference)]])
    expected_order = np.argsort(-reference, axis=1, kind="stable")[:, :5]
    assert np.array_equal(result.classes[:, 0], expected_order[:, 0])
    tolerance = 1e-4 if "float32" in device.description else 0.1  # bfloat16 keeps 8 bits
    expected = np.take_along_axis(reference, result.classes, axis=1)
    assert np.abs(np.log(result.probabilities) - expected).max() < tolerance


def test_top_5_and_probabilities_are_those_of_transformers_alone(device: CpuVit, pixels: np.ndarray) -> None:
    _assert_matches(device, pixels, _reference_log_probabilities(SAMPLE / "model", 64))


@pytest.mark.parametrize(("side", "patch"), [((24, 16), 8), ((16, 24), (8, 4)), ((21, 26), (4, 8))])
def test_images_and_patches_may_be_oblong_and_patches_leave_an_edge(
    tmp_path: Path, side: tuple[int, int], patch: int | tuple[int, int]
) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1, "num_labels": 10}
    model = ViTForImageClassification(ViTConfig(image_size=side, patch_size=patch, initializer_range=0.1, **sizes)).eval()
    model.save_pretrained(tmp_path)
    size = dict(zip(("height", "width"), side, strict=True))
    ViTImageProcessorPil(size=size).save_pretrained(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (5, *side, 3), np.uint8)
    with torch.inference_mode():
        reference = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).logits.log_softmax(1).numpy()
    device = CpuVit(load_checkpoint(str(tmp_path)), threads=1)
    (result,) = device.classify([images])
    expected = np.take_along_axis(reference, result.classes, axis=1)
    assert np.abs(np.log(result.probabilities) - expected).max() < (1e-4 if "float32" in device.description else 0.05)


def test_each_channels_own_mean_and_deviation_are_applied(tmp_path: Path, pixels: np.ndarray) -> None:
    shutil.copytree(SAMPLE / "model", tmp_path / "model")
    config = tmp_path / "model" / "preprocessor_config.json"
    changed = {"image_mean": [0.3, 0.5, 0.6], "image_std": [0.4, 0.5, 0.7]}
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    device = CpuVit(load_checkpoint(str(tmp_path / "model")), threads=1)
    _assert_matches(device, pixels, _reference_log_probabilities(tmp_path / "model", 16))


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_half_precision_weights_are_computed_with_in_float32(tmp_path: Path, pixels: np.ndarray, precision: Precision) -> None:
    shutil.copytree(SAMPLE / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    device = CpuVit(load_checkpoint(str(tmp_path / "model")), threads=1, precision=precision)
    _assert_matches(device, pixels, _reference_log_probabilities(tmp_path / "model", 16))


def test_auto_agrees_with_the_reference_on_the_held_out_images(devices: dict[str, CpuVit], pixels: np.ndarray) -> None:
    sizes = [64] * 7 + [52]
    answers = {
        name: np.concatenate([result.classes[:, 0] for result in _classify(device, pixels, sizes)])
        for name, device in devices.items()
    }
    assert np.mean(answers["auto"] == answers["fp32"]) >= 0.995
    accuracy = {name: np.mean(classes == LABELS) for name, classes in answers.items()}
    assert accuracy["fp32"] >= 0.96
    assert abs(accuracy["auto"] - accuracy["fp32"]) <= 0.003


@pytest.mark.parametrize("sizes", [[1, 1, 1], [3, 8, 9, 7, 13], [40], [17, 16, 7]])
def test_batches_of_any_size_are_answered_in_order_as_if_alone(
    devices: dict[str, CpuVit], pixels: np.ndarray, alone: dict[str, np.ndarray], sizes: list[int]
) -> None:
    for name, device in devices.items():
        results = _classify(device, pixels, sizes)
        assert [len(result.classes) for result in results] == sizes
        for result in results:
            assert result.classes.dtype == np.int32
            assert result.probabilities.dtype == np.float32
            assert result.classes.shape == result.probabilities.shape == (len(result.classes), 5)
        best = np.concatenate([result.probabilities[:, 0] for result in results])
        np.testing.assert_allclose(best, alone[name][: sum(sizes)], atol=1e-4)
        assert len(np.unique(best.round(5))) > sum(sizes) // 2  # distinct enough to notice a swap


def test_the_caller_may_refill_its_array_once_asked_for_the_next(device: CpuVit, pixels: np.ndarray) -> None:
    buffer = np.empty_like(pixels[:24])

    def refilled() -> Iterator[np.ndarray]:
        for start in (0, 24, 48, 72):
            buffer[:] = pixels[start : start + 24]
            yield buffer
            buffer[:] = 0

    separate = _classify(device, pixels, [24] * 4)
    for result, expected in zip(device.classify(refilled()), separate, strict=True):
        assert np.array_equal(result.classes, expected.classes)
        np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=1e-5)


def test_read_only_and_strided_arrays_are_read_rightly(device: CpuVit, pixels: np.ndarray) -> None:
    frozen = pixels[:20].copy()
    frozen.flags.writeable = False
    strided = np.repeat(pixels[:20], 2, axis=0)[::2]
    assert not strided.flags.c_contiguous
    expected, from_frozen, from_strided = device.classify([pixels[:20], frozen, strided])
    np.testing.assert_allclose(from_frozen.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(from_strided.probabilities, expected.probabilities, atol=1e-6)


def test_openvino_takes_further_batches_before_the_first_is_answered(devices: dict[str, CpuVit], pixels: np.ndarray) -> None:
    asked = []

    def counted() -> Iterator[np.ndarray]:
        for number in range(6):
            asked.append(number)
            yield pixels[:8]

    answers = devices["auto"].classify(counted())
    next(answers)
    assert len(asked) >= 3
    assert len(list(answers)) == 5


def test_a_tick_completes_the_oldest_batch_before_anything_else_is_asked(device: CpuVit, pixels: np.ndarray) -> None:
    asked = []

    def questions() -> Iterator[np.ndarray | None]:
        for name, question in [("one", pixels[:20]), ("tick", None), ("two", pixels[20:23]), ("tick", None)]:
            asked.append(name)
            yield question

    answers = device.classify(questions())
    assert len(next(answers).classes) == 20
    assert "two" not in asked
    assert len(next(answers).classes) == 3
    assert next(answers, None) is None


def test_ticks_with_nothing_in_flight_answer_nothing(device: CpuVit, pixels: np.ndarray) -> None:
    assert len(list(device.classify([None, None, pixels[:2], None, None]))) == 1
    assert list(device.classify([])) == []


def test_busy_seconds_stay_within_the_run_and_leave_out_an_absent_caller(device: CpuVit, pixels: np.ndarray) -> None:
    away = 1.0

    def questions() -> Iterator[np.ndarray | None]:
        yield pixels[:8]
        time.sleep(away)
        yield None
        yield from np.split(pixels[:480], 10)

    before, start = time.time(), time.monotonic()
    results = list(device.classify(questions()))
    elapsed, after = time.monotonic() - start, time.time()
    assert len(results) == 11
    assert all(result.seconds >= 0 for result in results)
    assert 0 < sum(result.seconds for result in results) <= elapsed - away + results[0].seconds + 0.01
    assert results[0].seconds < away
    started = [result.started_at for result in results]
    assert started == sorted(started)
    assert before <= started[0] <= started[-1] <= after


def test_an_abandoned_run_leaves_the_device_ready_for_the_next(device: CpuVit, pixels: np.ndarray) -> None:
    answers = device.classify([pixels[:64]] * 4)
    first = next(answers)
    answers.close()  # type: ignore[attr-defined]
    (again,) = device.classify([pixels[:64]])
    np.testing.assert_allclose(again.probabilities, first.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((65, 64, 64, 3), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.zeros((4, 3, 64, 64), np.uint8),
        np.zeros((4, 32, 64, 3), np.uint8),
        np.zeros((4, 64, 64, 3), np.float32),
    ],
    ids=["too many", "none", "channels first", "another size", "float"],
)
def test_a_batch_the_contract_excludes_is_refused(device: CpuVit, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a batch must be uint8"):
        list(device.classify([wrong]))


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_closing_twice_is_harmless_and_a_closed_device_refuses_work(pixels: np.ndarray, precision: Precision) -> None:
    device = CpuVit(load_checkpoint(str(SAMPLE / "model")), threads=1, precision=precision)
    answers = device.classify([pixels[:4]] * 8)
    next(answers)
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="closed"):
        list(answers)
    with pytest.raises(DeviceError, match="closed"):
        device.classify([pixels[:4]])


def test_compiling_again_returns_the_same_seconds(device: CpuVit) -> None:
    assert device.compile() == device.compile() > 0


def test_the_description_names_the_library_precision_and_threads(devices: dict[str, CpuVit]) -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert (
        f"OpenVINO {'bfloat16' if flags & {'avx512_bf16', 'amx_bf16'} else 'float32'}, 2 threads" in devices["auto"].description
    )
    assert "torch eager float32, 1 thread" in devices["fp32"].description
    assert "\n" not in devices["auto"].description


def test_the_reference_computes_on_as_many_threads_as_it_is_given() -> None:
    checkpoint: Checkpoint = load_checkpoint(str(SAMPLE / "model"))
    for threads in (2, 1):
        CpuVit(checkpoint, threads=threads, precision="fp32").compile()
        assert torch.get_num_threads() == threads


def test_openvinos_usage_reporting_is_never_loaded(devices: dict[str, CpuVit]) -> None:
    devices["auto"].compile()
    assert "openvino.tools.ovc" in sys.modules
    assert [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module] == []


@pytest.mark.parametrize(("batch_size", "threads"), [(0, 1), (64, 0)])
def test_no_images_or_no_threads_are_refused(batch_size: int, threads: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CpuVit(load_checkpoint(str(SAMPLE / "model")), batch_size=batch_size, threads=threads)
