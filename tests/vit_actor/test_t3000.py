"""The T3000 device as an actor drives it, and the one line a user gets when it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from tests.mock_t3000.golden import Goldens
from tests.vit_actor.agreement import plain_preprocess, random_images, reference_logits
from vit_actor.checkpoint import load_checkpoint
from vit_actor.device import top_k
from vit_actor.errors import DeviceError, UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environ(mock_environment: dict[str, str]) -> Iterator[pytest.MonkeyPatch]:
    """The mock's variables, as processes that T3000Vit starts inherit them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mock_environment.items():
            patch.setenv(name, value)
        patch.delenv("TT_VISIBLE_DEVICES", raising=False)
        yield patch


@pytest.fixture(scope="module")
def device(environ: pytest.MonkeyPatch, sample_directory: Path) -> Iterator[Any]:
    """The bundled model on a mock T3000, with true float32 numbers."""
    from vit_actor.t3000 import T3000Vit

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the goldens of so small a model are faster without company
    with Goldens(rounding=False):
        device = T3000Vit(load_checkpoint(str(sample_directory / "model")))
        device.compile()
        yield device
        device.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(sample_directory: Path) -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(sample_directory / "model").eval()


def assert_answers(result: Any, images: np.ndarray, model: ViTForImageClassification) -> None:
    classes, probabilities = top_k(reference_logits(model, images, plain_preprocess(64)).numpy())
    assert result.classes.tolist() == classes.tolist()
    np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-5)


def test_it_holds_eight_chips_of_eight_images(device: Any) -> None:
    assert device.batch_size == 64
    assert device.description.startswith("simulated")
    assert "T3000, mesh 1x8" in device.description
    assert "ttnn 0.81" in device.description


def test_compiling_again_returns_the_first_time(device: Any) -> None:
    assert device.compile() == device.compile() > 0


def test_twelve_batches_with_a_short_last_one_are_answered_in_order(device: Any, model: ViTForImageClassification) -> None:
    batches = [random_images(64, 64, seed) for seed in range(11)] + [random_images(5, 64, 11)]
    results = list(device.classify(batches))
    assert [len(result.classes) for result in results] == [64] * 11 + [5]
    for result, images in zip(results, batches, strict=True):
        assert_answers(result, images, model)


def test_two_batches_are_in_flight_when_the_third_is_asked_for(device: Any) -> None:
    asked: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        for index in range(6):
            asked.append(index)
            yield random_images(64, 64, index)

    answered_when_asked = [len(asked) for _ in device.classify(batches())]
    assert answered_when_asked == [3, 4, 5, 6, 6, 6]


def test_the_callers_array_may_be_reused_and_may_be_read_only(device: Any, model: ViTForImageClassification) -> None:
    images = [random_images(64, 64, seed) for seed in range(4)]
    shared = images[0].copy()

    def batches() -> Iterator[np.ndarray]:
        for batch in images:
            shared[:] = batch
            view = shared[:]
            view.flags.writeable = False
            yield view

    for result, batch in zip(device.classify(batches()), images, strict=True):
        assert_answers(result, batch, model)


def test_with_nothing_to_do_the_oldest_batch_is_answered(device: Any, model: ViTForImageClassification) -> None:
    images = [random_images(64, 64, seed) for seed in range(2)]
    results = device.classify(iter([None, images[0], images[1], None, None, None]))
    assert_answers(next(results), images[0], model)
    assert_answers(next(results), images[1], model)
    assert list(results) == []


def test_batches_abandoned_in_flight_leave_no_trace_in_the_next(device: Any, model: ViTForImageClassification) -> None:
    abandoned = device.classify(random_images(64, 64, seed) for seed in range(9))
    next(abandoned)
    abandoned.close()
    images = random_images(64, 64, 42)
    (result,) = device.classify([images])
    assert_answers(result, images, model)


def test_seconds_add_up_to_the_time_the_device_was_busy(device: Any) -> None:
    import time

    started = time.monotonic()
    results = list(device.classify(random_images(64, 64, seed) for seed in range(4)))
    elapsed = time.monotonic() - started
    assert all(result.seconds > 0 for result in results)
    assert sum(result.seconds for result in results) <= elapsed


@pytest.mark.parametrize("images", [np.zeros((0, 64, 64, 3), np.uint8), np.zeros((65, 64, 64, 3), np.uint8)])
def test_a_batch_the_contract_excludes_is_refused(device: Any, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a batch is uint8 \\(1 to 64"):
        list(device.classify([images]))


def test_a_closed_device_says_so_and_closes_again(environ: pytest.MonkeyPatch, sample_directory: Path) -> None:
    from vit_actor.t3000 import T3000Vit

    device = T3000Vit(load_checkpoint(str(sample_directory / "model")), images_per_chip=1)
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="the mesh is closed"):
        device.compile()


def test_a_model_off_the_grid_is_refused_before_the_chips_are_touched(tmp_path: Path, sample_directory: Path) -> None:
    from transformers import ViTConfig

    from vit_actor.t3000 import T3000Vit

    ViTForImageClassification(
        ViTConfig(hidden_size=48, num_attention_heads=2, intermediate_size=96, num_hidden_layers=1, image_size=64, patch_size=8)
    ).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((sample_directory / "model" / "preprocessor_config.json").read_text())
    with pytest.raises(UserError, match="hidden size 48 does not divide into tiles of 32"):
        T3000Vit(load_checkpoint(str(tmp_path)))


# ---- opening ----


def opened(environment: dict[str, str], lines: str = "mesh = open_mesh(60); print(mesh.shape, mesh.get_num_devices())") -> str:
    """What opening a mesh says in a process of its own."""
    code = f"from vit_actor.t3000 import *\ntry:\n    {lines}\nexcept DeviceError as error:\n    print('DeviceError:', error)\n"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TT_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("boards", "mesh"), [("0", "MeshShape([1, 2]) 2"), ("0,1,2,3", "MeshShape([1, 8]) 8")])
def test_the_mesh_takes_the_chips_of_the_boards_it_was_given(mock_environment: dict[str, str], boards: str, mesh: str) -> None:
    assert opened({**mock_environment, "TT_VISIBLE_DEVICES": boards}) == mesh


def test_without_a_chip_the_error_says_where_to_look() -> None:
    said = opened({})
    assert said.startswith("DeviceError: no Tenstorrent chip found")
    assert "\n" not in said


def test_without_the_kernel_compiler_the_error_names_it(mock_environment: dict[str, str]) -> None:
    without = {name: value for name, value in mock_environment.items() if name != "TT_METAL_RUNTIME_ROOT"}
    said = opened(without)
    assert said.startswith("DeviceError: the kernel compiler is not installed; install Tenstorrent's sfpi")
    assert "\n" not in said


def test_chips_that_do_not_come_up_are_given_up_on(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vit_actor import t3000

    stuck = tmp_path / "python"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    environ.setattr(t3000.sys, "executable", str(stuck))
    with pytest.raises(DeviceError, match=r"did not come up in 0.5 s: another process holds them or they hang") as error:
        t3000.open_mesh(limit_seconds=0.5)
    environ.setattr(t3000.sys, "executable", sys.executable)
    assert "tt-smi -r" in str(error.value)


def test_boards_with_different_firmware_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vit_actor import t3000

    for board, firmware in ((0, "80.15.0.0"), (1, "80.8.12.0")):
        (tmp_path / f"tenstorrent!{board}").mkdir()
        (tmp_path / f"tenstorrent!{board}" / "tt_fw_bundle_ver").write_text(firmware + "\n")
    monkeypatch.setenv("TT_VISIBLE_DEVICES", "0,1")
    found = t3000.firmware_versions(tmp_path)
    assert found == {"0": "80.15.0.0", "1": "80.8.12.0"}
    monkeypatch.setattr(t3000, "firmware_versions", lambda: found)
    with pytest.raises(DeviceError, match=r"board 0: 80.15.0.0, board 1: 80.8.12.0"):
        t3000.open_mesh()


def test_another_release_of_ttnn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from vit_actor import t3000

    monkeypatch.setattr(t3000, "version", lambda name: "0.90.0")
    with pytest.raises(DeviceError, match=r"ttnn 0.90.0 is installed, but 0.81"):
        t3000.open_mesh()


def test_a_mesh_larger_than_the_machine_is_explained(mesh: Any) -> None:
    import ttnn

    from vit_actor.t3000 import _device_error

    with pytest.raises(RuntimeError) as raised:
        ttnn.open_mesh_device(ttnn.MeshShape(1, 9))
    assert str(_device_error(raised.value)).startswith("fewer chips came up than the mesh needs")


def test_processes_started_by_the_tests_do_not_find_the_mock(mock_environment: dict[str, str]) -> None:
    code = "import os; print(sorted(name for name in os.environ if name.startswith('TT_METAL_MOCK')))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "TT_METAL_MOCK_CLUSTER_DESC_PATH" in mock_environment
    assert child.stdout.strip() == "[]"
