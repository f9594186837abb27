"""A driver that is killed, stopped or doubled: what is committed stays, and one --resume completes it exactly."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import RayCluster
from tests.faults.running import Answers, Job, answers, committed, run, summary

pytestmark = pytest.mark.slow


def states(out: Path) -> list[str]:
    return [attempt["state"] for attempt in json.loads((out / "manifest.json").read_text())["attempts"]]


@pytest.mark.parametrize(
    ("moment", "after"),
    [
        pytest.param("within", 9, id="half-way, a file written and not yet named"),
        pytest.param("before", 0, id="at the first commit"),
        pytest.param("before", 12, id="just before a commit"),
        pytest.param("after", 12, id="just after a commit"),
    ],
)
def test_a_driver_killed_around_a_commit_loses_and_doubles_nothing_once_resumed(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path, moment: str, after: int
) -> None:
    deadly = replace(meshes, environment={**meshes.environment, "KILLED_AT": moment, "KILLED_AFTER": str(after)})
    died = Job.start(deadly, data, tmp_path, "compute=100ms", module="tests.faults.killed_at_commit").end()
    assert died.code == -signal.SIGKILL
    before = committed(tmp_path)
    assert after <= len(before) < 24
    parts = list((tmp_path / "predictions").glob(".*.part")) if moment == "within" else []
    assert bool(parts) is (moment == "within")

    resumed = run(meshes, data, tmp_path, "compute=1ms", "--resume")

    assert resumed.code == 0, resumed.output
    assert answers(tmp_path) == undisturbed
    assert {name: committed(tmp_path)[name] for name in before} == before, "a committed chunk was classified again"
    assert states(tmp_path) == ["running", "finished"]
    assert "drivers killed: 1" in resumed.stdout
    again = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert (again.code, "nothing to do" in again.stdout) == (0, True)
    assert states(tmp_path) == ["running", "finished"]


def test_a_second_job_on_a_running_output_is_refused_and_sigterm_ends_the_first_resumable(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    job = Job.start(meshes, data, tmp_path, "compute=3s")
    job.wait_until((tmp_path / "manifest.json").exists)
    second = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert second.code == 2, second.output
    assert "another job is writing there now" in second.stderr

    job.wait_for_commits(1)
    stopped = job.end(signal.SIGTERM)

    assert stopped.code == 143, stopped.output
    assert "--resume" in stopped.stderr
    assert states(tmp_path) == ["stopped"]
    before = committed(tmp_path)
    assert 1 <= len(before) < 24

    resumed = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert resumed.code == 0, resumed.output
    assert answers(tmp_path) == undisturbed
    assert {name: committed(tmp_path)[name] for name in before} == before
    assert summary(tmp_path)["attempts"] == 2
