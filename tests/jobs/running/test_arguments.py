"""Paths in a job's arguments mean what they mean where it was typed, wherever its workers run."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.imagenet import parse
from vit_actor.errors import UserError

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def test_relative_paths_are_below_the_directory_the_command_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUBMITTED, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    Path("model").mkdir()
    args = parse(["--data", "images", "--out", "runs/1", "--model", "model"])
    assert (args.data, args.out, args.model) == (f"{tmp_path}/images", f"{tmp_path}/runs/1", f"{tmp_path}/model")
    args = parse(["--data", "~/images", "--out", "/runs/1"])
    assert (args.data, args.out) == ("/home/somebody/images", "/runs/1")
    assert parse(["--data", "/x", "--out", "/y", "--model", f"file://{tmp_path}/a%20b"]).model == f"{tmp_path}/a b"


def test_uris_and_a_hubs_ids_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUBMITTED, raising=False)
    args = parse(["--data", "hf://datasets/a/b", "--out", "s3://bucket/run", "--model", "google/vit-base-patch16-224"])
    assert (args.data, args.out, args.model) == ("hf://datasets/a/b", "s3://bucket/run", "google/vit-base-patch16-224")


def test_a_submitted_jobs_paths_are_below_its_copy_but_for_where_results_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SUBMITTED, "{}")
    args = parse(["--data", "jobs/sample/images", "--out", "/mnt/run", "--model", "jobs/sample/model"])
    assert (args.data, args.model) == ("jobs/sample/images", "jobs/sample/model")
    with pytest.raises(SystemExit):
        parse(["--data", "jobs/sample/images", "--out", "run"])
    assert "relative to a submitted job's copy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "precision", "complaint"),
    [
        ("t3000", "fp32", "--precision fp32: device t3000 takes auto or fast or accurate"),
        ("cpu", "fast", "--precision fast: device cpu takes auto or fp32"),
        ("simulated", "accurate", "--precision accurate: device simulated takes auto"),
    ],
)
def test_a_precision_that_the_device_does_not_have_is_refused_before_ray(device: str, precision: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        parse(["--data", "d", "--out", "/o", "--device", device, "--precision", precision])
