"""A resume of something else is refused, and the refusal says what differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jobs.running import command
from jobs.running.classification import Inputs
from jobs.running.manifest import Manifest, claim
from jobs.settings import ImagenetSettings
from tests.faults.running import MODEL, write_shards
from vit_actor.errors import UserError


def wanted(data: Path, out: Path, model: Path, *arguments: str, device: str = "cpu") -> Manifest:
    """What a command asks for, as the job itself works it out."""
    typed = ["--data", str(data), "--out", str(out), "--model", str(model), "--resume", *arguments]
    settings = command.parse(ImagenetSettings, typed, "jobs.imagenet", None)
    return Inputs.open(settings).describe(settings, device)


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Path, Path, Path]:
    """(data, output, checkpoint) of a run that was stopped."""
    data, out, model = write_shards(tmp_path / "data", 2, images=3), tmp_path / "out", tmp_path / "model"
    shutil.copytree(MODEL, model)
    run = wanted(data, out, model)
    run.begin_attempt(str(out))
    run.end_attempt(str(out), "stopped")
    return data, out, model


def refusal(begun: tuple[Path, Path, Path], *arguments: str, device: str = "cpu") -> str:
    data, out, model = begun
    with pytest.raises(UserError) as refused:
        claim(str(out), wanted(data, out, model, *arguments, device=device), overwrite=False, resume=True)
    return str(refused.value)


def test_the_same_command_continues_the_same_run(begun: tuple[Path, Path, Path]) -> None:
    data, out, model = begun
    first = json.loads((out / "manifest.json").read_text())["run_id"]
    assert claim(str(out), wanted(data, out, model), overwrite=False, resume=True).run_id == first


def test_a_manifest_of_an_earlier_version_continues(begun: tuple[Path, Path, Path]) -> None:
    data, out, model = begun
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["chosen"]
    (out / "manifest.json").write_text(json.dumps(manifest | {"counted": [6, 0]}))
    assert claim(str(out), wanted(data, out, model), overwrite=False, resume=True).run_id == manifest["run_id"]


def test_all_that_was_chosen_is_kept_without_credentials(begun: tuple[Path, Path, Path]) -> None:
    kept = json.loads((begun[1] / "manifest.json").read_text())["chosen"]
    assert kept.keys() == ImagenetSettings.options().keys()
    assert (kept["out"], kept["max_errors"], kept["resume"], kept["meshes"]) == (str(begun[1]), 0.01, True, None)
    settings = ImagenetSettings(data="s3://key:HUSH@bucket/d", out="/o", labels="https://host/l?sig=HUSH")
    assert "HUSH" not in json.dumps(settings.saved())


def test_a_data_set_that_gained_a_file_is_another(begun: tuple[Path, Path, Path]) -> None:
    shutil.copy(begun[0] / "0000.parquet", begun[0] / "0002.parquet")
    assert "the data set's files, sizes or rows changed" in refusal(begun)


def test_a_checkpoint_of_other_weights_is_another(begun: tuple[Path, Path, Path]) -> None:
    weights = begun[2] / "model.safetensors"
    contents = bytearray(weights.read_bytes())
    contents[-1] ^= 1
    weights.write_bytes(contents)
    assert "the checkpoint's files changed" in refusal(begun)


@pytest.mark.parametrize(
    ("arguments", "device", "said"),
    [
        (["--limit=4"], "cpu", "limit was None, now 4"),
        (["--precision=fp32"], "cpu", "precision was 'auto', now 'fp32'"),
        ([], "t3000", "device was 'cpu', now 't3000'"),
        (["--images-per-chip=4"], "simulated", "images_per_chip was None, now 4"),
    ],
)
def test_another_setting_is_named_with_both_values(
    begun: tuple[Path, Path, Path], arguments: list[str], device: str, said: str
) -> None:
    assert said in refusal(begun, *arguments, device=device)
