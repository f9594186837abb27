"""A driver that is killed, stopped or doubled: what is committed stays, and one --resume completes it exactly."""

import os
import signal
from pathlib import Path

import pytest

from jobs.report import main as report
from jobs.running.command import JobFailed
from tests.commands import begin
from tests.faults.running import Case, Job, command, committed, lose_chunks, prediction_files
from tests.processes import processes


@pytest.mark.parametrize(
    ("moment", "after"),
    [
        pytest.param("within", 9, id="half-way, a file written and not yet named"),
        pytest.param("before", 0, id="at the first commit", marks=pytest.mark.slow),
        pytest.param("before", 12, id="just before a commit", marks=pytest.mark.slow),
        pytest.param("after", 12, id="just after a commit", marks=pytest.mark.slow),
    ],
)
def test_a_driver_killed_around_a_commit_loses_and_doubles_nothing_once_resumed(case: Case, moment: str, after: int) -> None:
    deadly = case.under(KILLED_AT=moment, KILLED_AFTER=str(after))
    died = deadly.start("compute=100ms", module="tests.faults.poisoned").end()
    assert died.code == -signal.SIGKILL
    assert after <= len(committed(case.out)) < 24
    assert bool(list((case.out / "predictions").glob(".*.part"))) is (moment == "within")

    assert "drivers killed: 1" in case.resume().stdout
    assert "nothing to do" in case.resume().stdout
    assert case.states == ["running", "finished"]

    lose_chunks(case.out)
    with pytest.raises(JobFailed, match="images have a row; run the job again with --resume"):
        report(["--out", str(case.out)])
    spoilt = prediction_files(case.out)[3]
    spoilt.write_bytes(spoilt.read_bytes()[:-100])
    mended = case.resume()
    assert "predictions are gone or changed" in mended.stderr
    assert f"deleted so that their images are classified again: {spoilt.name}\n" in mended.stderr


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)], ids=["SIGTERM", "SIGINT"]
)
def test_a_second_job_on_a_running_output_is_refused_and_a_signal_ends_the_first_resumable(
    case: Case, how: signal.Signals, code: int
) -> None:
    case.out.mkdir()
    (case.out / ".lock").touch()  # of a command that was stopped before it wrote a manifest
    job = case.start("compute=1s", "--resume")
    job.wait_until((case.out / "manifest.json").exists)
    second = case.run("compute=1ms", "--resume")
    assert second.code == 2, second.output
    assert "another job is writing there now" in second.stderr

    job.wait_for_commits(1)
    stopped = job.end(how)
    assert stopped.code == code, stopped.output
    assert f"--resume: no run in {case.out} yet; this begins one\n" in stopped.stderr
    assert "add --resume to go on" in stopped.stderr
    assert case.states == ["stopped"]
    before = committed(case.out)
    assert 1 <= len(before) < 24

    case.resume()
    assert {name: committed(case.out)[name] for name in before} == before
    assert case.summary["attempts"] == 2


@pytest.mark.slow
def test_what_a_killed_driver_had_counted_is_in_the_report_of_the_resume(case: Case) -> None:
    job = case.start("compute=4s")
    job.wait_for_commits(1)
    case.kill_one("Classifier")
    job.wait_until(lambda: case.attempts[0].get("restarts") == 1)
    job.end(signal.SIGKILL)
    case.resume()
    assert (case.summary["killed_attempts"], case.summary["restarts"]) == (1, 1)


def test_a_ledger_that_dies_is_told_in_a_line_and_what_is_committed_stays(case: Case) -> None:
    job = case.start("compute=1s")
    job.wait_for_commits(1)
    case.kill_one("Ledger")
    failed = job.end()
    (told,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert (failed.code, "the ledger, which keeps the run's account, has ended" in told, len(told) < 300) == (1, True, True), told
    assert "--resume" in told
    case.resume()


@pytest.mark.slow
@pytest.mark.parametrize("process", ["raylet/raylet", "gcs/gcs_server"], ids=["scheduler", "control service"])
def test_a_ray_that_dies_under_the_job_is_told_in_a_line_and_what_is_committed_stays(case: Case, process: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    _, *line = command(case.data, case.out, "compute=2s")
    job = Job(begin(*line, environment=environment), case.out)
    job.wait_for_commits(1)
    children = Path(f"/proc/{job.process.pid}/task").glob("*/children")
    keepers = [int(pid) for each in children for pid in each.read_text().split()]
    [pid] = [pid for pid in processes(rf"^\S*{process} ") if os.getsid(pid) in keepers]
    os.kill(pid, signal.SIGKILL)
    died = job.end()
    assert died.code == 1, died.output
    assert "what is committed stays: add --resume to go on" in died.stderr
    assert case.states == ["failed"]
    assert committed(case.out)
