"""A chip that answers wrongly: none of its answers stays, another mesh gives them again, and a run without one says so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.running.chip_checks import checked
from tests.conftest import RayCluster
from tests.faults.running import Answers, Job, answers, committed, footers_in, prediction_files, run

ELEVEN = "board 5 chip 11"
"""Of the second mesh, boards 4 to 7."""


def attempts(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "manifest.json").read_text())["attempts"]
    return found


@pytest.mark.parametrize("after", [12, pytest.param(0, marks=pytest.mark.slow)])
def test_the_chunks_of_a_mesh_with_a_wrong_chip_are_done_by_the_other(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path, after: int
) -> None:
    done = run(meshes, data, tmp_path, f"compute=150ms,wrong_chip=11,wrong_after={after}", "--meshes=2")
    assert done.code == 0, done.output
    assert answers(tmp_path) == undisturbed
    failed = [life for life in attempts(tmp_path)[0]["checks"] if life["failed"]]
    assert [life["failed"] for life in failed] == [[ELEVEN]] * len(failed)
    assert failed
    assert all(life["mesh"].endswith("/4-7") for life in failed)
    assert re.search(rf"/4-7: self-check failed: {ELEVEN}: \d+ of 160 scores differ", done.stderr)
    assert f" checks of all chips, {failed[0]['mesh']} {ELEVEN} ({len(failed)} failed)" in done.output


@pytest.mark.parametrize("after", [20, pytest.param(0, marks=pytest.mark.slow)])
def test_a_run_without_another_mesh_ends_in_one_line_and_leaves_no_wrong_row(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path, after: int
) -> None:
    done = run(meshes, data, tmp_path, f"compute=1ms,wrong_chip=3,wrong_after={after}", "--meshes=1")
    assert done.code == 1, done.output
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert re.search(r"self-check failed: board 1 chip 3: \d+ of 160 scores differ, by up to", line)
    assert ("; no other mesh is left; what is committed stays: add --resume" in line) == bool(after)
    for file in prediction_files(tmp_path):
        for row in pq.ParquetFile(file).read(["image_id", "prediction"]).to_pylist():
            assert undisturbed.rows[row["image_id"]][1] == str(row["prediction"])

    resumed = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert resumed.code == 0, resumed.output
    assert answers(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["within", "after"])
def test_what_was_committed_before_a_check_is_kept_by_a_resume_and_what_none_followed_is_done_again(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path, moment: str
) -> None:
    deadly = {**meshes.environment, "KILLED_AT": moment, "KILLED_AFTER": "12", "LOUDBOX_CHECK_SECONDS": "1"}
    line = ("compute=400ms,wrong_chip=3,wrong_after=24", "--meshes=1")
    died = Job.start(replace(meshes, environment=deadly), data, tmp_path, *line, module="tests.faults.poisoned").end()
    assert died.code < 0, died.output
    before, is_checked = committed(tmp_path), checked(attempts(tmp_path))
    sound = {footer["chunk"] for file in prediction_files(tmp_path) for footer in footers_in(file) if is_checked(footer)}
    assert len(sound) < len(before)
    resumed = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert resumed.code == 0, resumed.output
    assert "no check of chips followed " in resumed.stderr
    assert answers(tmp_path) == undisturbed
    assert {name for name in before if committed(tmp_path)[name] == before[name]} == sound
