"""A job of several streams: the same rows as one stream's, and a stream's process that dies costs none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RayCluster
from tests.faults.running import Answers, Job, answers, committed, kill_one, run, summary


def test_two_streams_answer_as_one_does_on_both_meshes(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    done = run(meshes, data, tmp_path, "compute=50ms", "--streams=2")
    assert done.code == 0, done.output
    assert answers(tmp_path) == undisturbed
    assert (summary(tmp_path)["meshes"], summary(tmp_path)["retries"]) == (2, 0)


def test_a_streams_process_that_is_killed_is_started_again_and_nothing_is_lost(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    job = Job.start(meshes, data, tmp_path, "compute=300ms", "--streams=2")
    job.wait_for_commits(4)
    kill_one(meshes.environment["HOME"], "_Process")
    done = job.end()
    assert done.code == 0, done.output
    assert "(raylet)" not in done.output
    assert answers(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_run_of_two_streams_is_stopped_and_goes_on_with_one(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    import signal

    job = Job.start(meshes, data, tmp_path, "compute=300ms", "--streams=2")
    job.wait_for_commits(4)
    stopped = job.end(signal.SIGTERM)
    assert stopped.code == 143, stopped.output
    assert 4 <= len(committed(tmp_path)) < 24
    done = run(meshes, data, tmp_path, "compute=1ms", "--resume")
    assert done.code == 0, done.output
    assert answers(tmp_path) == undisturbed
