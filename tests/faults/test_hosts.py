"""A host that is lost takes nothing with it, one that comes back is put to work, and one that cannot write ends the job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Command
from tests.faults.running import Answers, Job, answers, command, committed, footers_in, prediction_files, summary
from tests.rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(loudboxes=2, object_store_mb=300) as rig:
        yield rig


def hosts(out: Path) -> list[str]:
    """The hosts of the committed files."""
    return [footer["mesh"].partition("/")[0] for file in prediction_files(out) for footer in footers_in(file)]


def start(rig: Rig, data: Path, out: Path, timing: str, *arguments: str) -> Job:
    line = ["python", *command(data, out, timing, *arguments)]
    return Job(Command(lambda stdout, stderr: rig.start(line, stdout=stdout, stderr=stderr)), out)


def test_a_host_whose_output_turns_read_only_ends_the_job_in_one_line_and_a_resume_completes_it(
    rig: Rig, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    def mount(*arguments: str) -> int:
        return rig.run(["mount", *arguments, str(tmp_path)], host="loudbox-1", check=False).returncode

    assert mount("--bind", str(tmp_path)) == 0
    job = start(rig, data, tmp_path, "compute=500ms")
    job.wait_until(lambda: "loudbox-1" in hosts(tmp_path))
    job.wait_until(lambda: mount("-o", "remount,bind,ro") == 0)  # refused while a file is open for writing
    failed = job.end()

    assert failed.code == 1, failed.output
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert f"{tmp_path}: Read-only file system; mount it for writing" in line
    assert "Traceback" not in failed.output
    before = committed(tmp_path)
    assert 0 < len(before) < 24

    assert mount("-o", "remount,bind,rw") == 0
    resumed = start(rig, data, tmp_path, "compute=1ms", "--resume").end()
    assert resumed.code == 0, resumed.output
    assert answers(tmp_path) == undisturbed


def test_a_host_lost_and_back_again_costs_time_and_no_image(rig: Rig, data: Path, undisturbed: Answers, tmp_path: Path) -> None:
    job = start(rig, data, tmp_path, "compute=2s")
    job.wait_until(lambda: set(hosts(tmp_path)) == {"loudbox-1", "loudbox-2"})

    rig.kill_host("loudbox-2")
    before = hosts(tmp_path).count("loudbox-2")
    rig.add_host("loudbox-2")
    job.wait_until(lambda: hosts(tmp_path).count("loudbox-2") > before)
    done = job.end()

    assert done.code == 0, done.output
    assert answers(tmp_path) == undisturbed
    assert summary(tmp_path)["lost_hosts"] == ["loudbox-2"]
    assert "hosts lost: 1" in done.stdout


def test_the_chunks_of_a_host_lost_for_good_are_done_by_the_one_that_is_left(
    rig: Rig, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    job = start(rig, data, tmp_path, "compute=500ms")
    job.wait_until(lambda: set(hosts(tmp_path)) == {"loudbox-1", "loudbox-2"})

    rig.kill_host("loudbox-2")
    done = job.end()

    assert done.code == 0, done.output
    assert answers(tmp_path) == undisturbed
    assert summary(tmp_path)["lost_hosts"] == ["loudbox-2"]
