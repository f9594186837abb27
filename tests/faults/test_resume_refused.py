"""A resume of something else is refused, and the refusal says what differs."""

import json
import re
import shutil
from collections.abc import Callable
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


type Begun = tuple[Path, Path, Path]
type Change = Callable[[Path, Path], None]


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    """(data, output, checkpoint) of a run that was stopped."""
    data, out, model = write_shards(tmp_path / "data", 2, images=3), tmp_path / "out", tmp_path / "model"
    shutil.copytree(MODEL, model)
    run = wanted(data, out, model)
    run.begin_attempt(str(out))
    run.end_attempt(str(out), "stopped")
    return data, out, model


def test_what_is_the_same_run_continues(begun: Begun) -> None:
    data, out, model = begun
    manifest = json.loads((out / "manifest.json").read_text())
    assert claim(str(out), wanted(data, out, model), overwrite=False, resume=True).run_id == manifest["run_id"]


def test_all_that_was_chosen_is_kept_without_credentials(begun: Begun) -> None:
    kept = json.loads((begun[1] / "manifest.json").read_text())["chosen"]
    assert kept.keys() == ImagenetSettings.options().keys()
    assert (kept["out"], kept["max_errors"], kept["resume"], kept["meshes"]) == (str(begun[1]), 0.01, True, None)
    settings = ImagenetSettings(data="s3://key:HUSH@bucket/d", out="/o", labels="https://host/l?sig=HUSH")
    assert "HUSH" not in json.dumps(settings.saved())


def gain_a_file(data: Path, model: Path) -> None:
    shutil.copy(data / "0000.parquet", data / "0002.parquet")


def change_a_weight(data: Path, model: Path) -> None:
    contents = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))


@pytest.mark.parametrize(
    ("change", "arguments", "device", "said"),
    [
        (gain_a_file, [], "cpu", "the data set's files, sizes or rows changed"),
        (change_a_weight, [], "cpu", "the checkpoint's files changed"),
        (None, ["--limit=4"], "cpu", "limit was None, now 4"),
        (None, ["--precision=fp32"], "cpu", "precision was 'auto', now 'fp32'"),
        (None, [], "t3000", "device was 'cpu', now 't3000'"),
        (None, ["--images-per-chip=4"], "simulated", "images_per_chip was None, now 4"),
    ],
)
def test_what_differs_is_named(begun: Begun, change: Change | None, arguments: list[str], device: str, said: str) -> None:
    data, out, model = begun
    if change:
        change(data, model)
    other = wanted(data, out, model, *arguments, device=device)
    with pytest.raises(UserError, match=re.escape(said)):
        claim(str(out), other, overwrite=False, resume=True)
