"""Storage that fails under a run: full or read-only outputs, data that disappears or changes, an object store too small."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.pipeline.commit import Predictions
from jobs.running.ledgers import open_ledger
from tests.conftest import RayCluster, ray_head
from tests.faults.running import Answers, Job, answers, committed, run, write_shards
from tests.jobs.prediction_files import row, table
from tests.small_disk import small_disk
from vit_actor.errors import UserError


@contextmanager
def neighbour(cluster: RayCluster, *, megabytes: int) -> Iterator[None]:
    """Another program that keeps so much in the cluster's object store."""
    lines = [
        "import numpy as np, ray",
        f"ray.init('{cluster.address}', log_to_driver=False)",
        f"kept = [ray.put(np.zeros(10**7, np.uint8)) for _ in range({megabytes // 10})]",
        "print('full', flush=True)",
        "input()",
    ]
    line = [sys.executable, "-c", "\n".join(lines)]
    with subprocess.Popen(
        line, env=cluster.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "full\n"
        yield
        program.communicate("\n")


def remount(at: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(at)], check=True, timeout=20)


def errors(text: str) -> list[str]:
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("error:")]


def test_a_commit_that_does_not_fit_is_told_in_one_line_and_leaves_whole_files_and_no_part(tmp_path: Path) -> None:
    rows = table([row(n % 10, 1, image_id=f"{n}.jpeg") for n in range(2000)])
    with small_disk(tmp_path / "disk", "160k") as disk:
        predictions = Predictions(str(disk))

        def fill() -> None:
            for chunk in range(100):
                predictions.commit(f"chunk-{chunk}", rows, {})

        with pytest.raises(UserError, match=r"/chunk-\d+\.parquet: cannot write: No space left on device; free some") as full:
            fill()
        assert "\n" not in str(full.value)
        files = list((disk / "predictions").iterdir())
        assert files
        assert all(pq.read_table(file).num_rows == 2000 for file in files)

        remount(disk, "ro")
        with pytest.raises(UserError, match=r"/another\.parquet: cannot write: Read-only file system; mount it for writing"):
            predictions.commit("another", rows, {})
        remount(disk, "rw,size=64m")
        predictions.commit("another", rows, {})
        assert predictions.is_committed("another")


@pytest.mark.slow
def test_a_full_disk_ends_the_job_in_one_line_and_room_on_it_lets_a_resume_complete_it(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "160k") as disk:
        failed = run(meshes, data, disk)
        assert failed.code == 1, failed.output
        (line,) = errors(failed.stderr)
        assert f"{disk}/predictions/" in line
        assert "cannot write: No space left on device; free some" in line
        assert "--resume" in line
        before = committed(disk)
        assert 0 < len(before) < 24

        remount(disk, "size=64m")
        resumed = run(meshes, data, disk, "compute=1ms", "--resume")
        assert resumed.code == 0, resumed.output
        assert answers(disk) == undisturbed


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        remount(disk, "ro")
        with pytest.raises(UserError, match=r"/out/\.lock: cannot lock: Read-only file system; mount it for writing"):
            open_ledger(str(disk / "out"))


def listed(meshes: RayCluster, data: Path, copy: Path, out: Path) -> Job:
    """A job over a copy of the data, which has listed it and read nothing of it yet."""
    shutil.copytree(data, copy)
    job = Job.start(meshes, copy, out, "compute=50ms")
    job.wait_until((out / "manifest.json").exists)
    return job


@pytest.mark.slow
def test_a_shard_gone_before_it_is_read_ends_the_job_in_one_line(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    copy, out = tmp_path / "data", tmp_path / "out"
    job = listed(meshes, data, copy, out)
    (copy / "0023.parquet").unlink()
    failed = job.end()
    assert failed.code == 1, failed.output
    (line,) = errors(failed.stderr)
    assert "0023.parquet: no such file" in line

    refused = run(meshes, copy, out, "compute=1ms", "--resume")
    assert refused.code == 2
    assert "changed" in errors(refused.stderr)[0]

    shutil.copy(data / "0023.parquet", copy / "0023.parquet")
    resumed = run(meshes, copy, out, "compute=1ms", "--resume")
    assert resumed.code == 0, resumed.output
    assert answers(out) == undisturbed


@pytest.mark.slow
def test_a_shard_that_comes_while_the_run_reads_is_not_of_this_run(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    copy, out = tmp_path / "data", tmp_path / "out"
    job = listed(meshes, data, copy, out)
    shutil.copy(copy / "0007.parquet", copy / "0024.parquet")
    done = job.end()
    assert done.code == 0, done.output
    assert answers(out) == undisturbed
    refused = run(meshes, copy, out, "compute=1ms", "--resume")
    assert refused.code == 2
    assert "the data set's files, sizes or rows changed" in errors(refused.stderr)[0]


@pytest.mark.slow
def test_a_shard_that_becomes_another_before_it_is_read_ends_the_job_and_only_a_new_start_answers_for_it(
    meshes: RayCluster, data: Path, tmp_path: Path
) -> None:
    copy, out, expected = tmp_path / "data", tmp_path / "out", tmp_path / "expected"
    job = listed(meshes, data, copy, out)
    shutil.copy(copy / "0007.parquet", copy / "0023.parquet")  # as many rows, other pictures
    failed = job.end()
    assert failed.code == 1, failed.output
    (line,) = errors(failed.stderr)
    assert "changed while the run read it" in line
    refused = run(meshes, copy, out, "compute=1ms", "--resume")
    assert refused.code == 2
    assert "changed" in errors(refused.stderr)[0]

    again = run(meshes, copy, out, "compute=1ms", "--overwrite")
    assert again.code == 0, again.output
    assert run(meshes, copy, expected).code == 0
    assert answers(out) == answers(expected)


@pytest.mark.slow
def test_a_full_object_store_spills_to_disk_and_costs_no_row(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 8, images=512)
    spilled = tmp_path / "spilled"
    small = [
        "--num-cpus=2",
        '--resources={"TTNPU": 4}',
        "--object-store-memory=200000000",
        f"--object-spilling-directory={spilled}",
    ]
    with ray_head(tmp_path / "home", *small) as cluster, neighbour(cluster, megabytes=190):
        done = run(cluster, data, tmp_path / "out", "compute=100ms")
        assert done.code == 0, done.output
        assert any(file.is_file() for file in spilled.rglob("*"))
    with ray_head(tmp_path / "home", "--num-cpus=2", '--resources={"TTNPU": 4}') as cluster:
        with_room = run(cluster, data, tmp_path / "expected")
        assert with_room.code == 0, with_room.output
    assert answers(tmp_path / "out") == answers(tmp_path / "expected")
    assert len(answers(tmp_path / "out").rows) == 8 * 512
