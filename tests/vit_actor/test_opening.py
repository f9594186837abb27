"""A device request opens what it names, with the driver's own checkpoint, or says in one line why not."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands import ROOT
from vit_actor.checkpoint import load_checkpoint
from vit_actor.errors import DeviceError
from vit_actor.opening import DeviceRequest, own_kernel_cache


@pytest.fixture
def request_() -> DeviceRequest:
    return DeviceRequest.of(load_checkpoint(str(ROOT / "jobs/sample/model")), "cpu", batch_size=8, simulate="compute=3ms")


@pytest.mark.parametrize(
    ("device", "precision", "batch_size", "description"),
    [
        ("simulated", "auto", 8, "simulated T3000: compute 3.00 ms"),
        ("cpu", "auto", 8, "OpenVINO"),
        ("cpu", "fp32", 8, "torch eager float32, 1 thread"),
        ("t3000", "auto", 64, ", accurate: bfloat8_b at HiFi2"),
        ("t3000", "accurate", 64, ", accurate: bfloat8_b at HiFi2"),
        ("t3000", "fast", 64, ", fast: bfloat8_b at LoFi"),
    ],
)
def test_it_opens_the_device_it_names_in_any_process(
    request_: DeviceRequest, environ: pytest.MonkeyPatch, device: str, precision: str, batch_size: int, description: str
) -> None:
    environ.setenv("TT_VISIBLE_DEVICES", "")
    opened = pickle.loads(pickle.dumps(replace(request_, device=device, precision=precision)))()  # type: ignore[arg-type]
    assert description in opened.description
    assert opened.batch_size == batch_size
    opened.close()


def test_a_checkpoint_that_is_not_the_drivers_is_refused(request_: DeviceRequest, tmp_path: Path) -> None:
    other = shutil.copytree(request_.path, tmp_path / "model")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    with pytest.raises(DeviceError, match="differs between this host and the driver's; copy the same files to both"):
        replace(request_, path=other)()


def test_a_host_without_the_drivers_directory_asks_for_the_checkpoint_by_its_name(request_: DeviceRequest) -> None:
    replace(request_, path=Path("/nowhere"))().close()


@pytest.mark.parametrize(
    ("visible", "set_to", "own"),
    [("2", None, ".cache/boards-2"), ("0,1", "/k", "/k/boards-0-1"), ("0,1,2,3", "/k", "/k"), ("", None, None)],
)
def test_actors_that_share_a_host_have_a_kernel_cache_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, set_to: str | None, own: str | None
) -> None:
    for name in ("0", "1", "2", "3", "by-id"):
        (tmp_path / name).touch()
    monkeypatch.setenv("TT_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("TT_METAL_CACHE", set_to or "")
    for _ in range(2):  # a device may be opened again
        own_kernel_cache(tmp_path)
    assert os.environ["TT_METAL_CACHE"] == (str(Path.home() / own) if own else "")
