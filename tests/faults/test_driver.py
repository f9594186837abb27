"""A driver that is killed, stopped or doubled: what is committed stays, and one --resume completes it exactly."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.report import main as report
from jobs.running.command import JobFailed
from tests.commands import begin
from tests.conftest import RayCluster
from tests.faults.running import (
    LIMIT,
    Answers,
    Job,
    answers,
    command,
    committed,
    kill_one,
    lose_chunks,
    prediction_files,
    run,
    summary,
)


def states(out: Path) -> list[str]:
    return [attempt["state"] for attempt in json.loads((out / "manifest.json").read_text())["attempts"]]


@pytest.mark.parametrize(
    ("moment", "after"),
    [
        pytest.param("within", 9, id="half-way, a file written and not yet named"),
        pytest.param("before", 0, id="at the first commit", marks=pytest.mark.slow),
        pytest.param("before", 12, id="just before a commit", marks=pytest.mark.slow),
        pytest.param("after", 12, id="just after a commit", marks=pytest.mark.slow),
    ],
)
def test_a_driver_killed_around_a_commit_loses_and_doubles_nothing_once_resumed(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path, moment: str, after: int
) -> None:
    deadly = replace(meshes, environment={**meshes.environment, "KILLED_AT": moment, "KILLED_AFTER": str(after)})
    died = Job.start(deadly, data, tmp_path, "compute=100ms", module="tests.faults.poisoned").end()
    assert died.code == -signal.SIGKILL
    before = committed(tmp_path)
    assert after <= len(before) < 24
    parts = list((tmp_path / "predictions").glob(".*.part")) if moment == "within" else []
    assert bool(parts) is (moment == "within")

    resumed = run(meshes, data, tmp_path, "compute=1ms", "--resume")

    assert resumed.code == 0, resumed.output
    assert answers(tmp_path) == undisturbed
    assert states(tmp_path) == ["running", "finished"]
    assert "drivers killed: 1" in resumed.stdout
    again = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert (again.code, "nothing to do" in again.stdout) == (0, True)
    assert states(tmp_path) == ["running", "finished"]

    lose_chunks(tmp_path)
    with pytest.raises(JobFailed, match="images have a row; run the job again with --resume"):
        report(["--out", str(tmp_path)])
    spoilt = prediction_files(tmp_path)[3]
    spoilt.write_bytes(spoilt.read_bytes()[:-100])
    mended = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert mended.code == 0, mended.output
    assert "predictions are gone or changed" in mended.stderr
    assert f"deleted so that their images are classified again: {spoilt.name}\n" in mended.stderr
    assert answers(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)], ids=["SIGTERM", "SIGINT"]
)
def test_a_second_job_on_a_running_output_is_refused_and_a_signal_ends_the_first_resumable(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    (tmp_path / ".lock").touch()  # of a command that was stopped before it wrote a manifest
    job = Job.start(meshes, data, tmp_path, "compute=1s", "--resume")
    job.wait_until((tmp_path / "manifest.json").exists)
    second = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert second.code == 2, second.output
    assert "another job is writing there now" in second.stderr

    job.wait_for_commits(1)
    stopped = job.end(how)

    assert stopped.code == code, stopped.output
    assert f"--resume: no run in {tmp_path} yet; this begins one\n" in stopped.stderr
    assert "add --resume to go on" in stopped.stderr
    assert states(tmp_path) == ["stopped"]
    before = committed(tmp_path)
    assert 1 <= len(before) < 24

    resumed = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert resumed.code == 0, resumed.output
    assert answers(tmp_path) == undisturbed
    assert {name: committed(tmp_path)[name] for name in before} == before
    assert summary(tmp_path)["attempts"] == 2


@pytest.mark.slow
def test_what_a_killed_driver_had_counted_is_in_the_report_of_the_resume(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    job = Job.start(meshes, data, tmp_path, "compute=4s")
    job.wait_for_commits(1)
    kill_one(meshes.environment["HOME"], "Classifier")
    manifest = tmp_path / "manifest.json"
    job.wait_until(lambda: json.loads(manifest.read_text())["attempts"][0].get("restarts") == 1)
    job.end(signal.SIGKILL)

    resumed = run(meshes, data, tmp_path, "compute=1ms", "--resume")

    assert resumed.code == 0, resumed.output
    assert answers(tmp_path) == undisturbed
    assert (summary(tmp_path)["killed_attempts"], summary(tmp_path)["restarts"]) == (1, 1)


def test_a_ledger_that_dies_is_told_in_a_line_and_what_is_committed_stays(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    job = Job.start(meshes, data, tmp_path, "compute=1s")
    job.wait_for_commits(1)
    kill_one(meshes.environment["HOME"], "Ledger")

    failed = job.end()

    (told,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert (failed.code, "the ledger, which keeps the run's account, has ended" in told, len(told) < 300) == (1, True, True), told
    assert "--resume" in told
    resumed = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert resumed.code == 0, resumed.output
    assert answers(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("process", ["raylet/raylet", "gcs/gcs_server"], ids=["scheduler", "control service"])
def test_a_ray_that_dies_under_the_job_is_told_in_a_line_and_what_is_committed_stays(
    data: Path, undisturbed: Answers, tmp_path: Path, process: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    _, *line = command(data, tmp_path, "compute=2s")
    job = Job(begin(*line, environment=environment), tmp_path)
    job.wait_for_commits(1)
    children = Path(f"/proc/{job.process.pid}/task").glob("*/children")
    keepers = [int(pid) for each in children for pid in each.read_text().split()]
    [pid] = [
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if process.encode() in (entry / "cmdline").read_bytes().split(b"\0")[0] and os.getsid(int(entry.name)) in keepers
    ]
    os.kill(pid, signal.SIGKILL)
    died = job.end()
    assert died.code == 1, died.output
    assert "what is committed stays: add --resume to go on" in died.stderr
    assert died.seconds < LIMIT
    assert states(tmp_path) == ["failed"]
    assert committed(tmp_path)
