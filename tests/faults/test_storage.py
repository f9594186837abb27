"""Storage that fails under a run: full or read-only outputs, data that disappears or changes, an object store too small."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.pipeline.commit import Predictions
from jobs.running.output_lock import hold_output
from tests.conftest import RayCluster, ray_head
from tests.faults.running import Case, answers, run, write_shards
from tests.jobs.prediction_files import row, table
from tests.small_disk import small_disk
from vit_actor.errors import UserError


@contextmanager
def neighbour(cluster: RayCluster, *, megabytes: int) -> Iterator[None]:
    """Another program that keeps so much in the cluster's object store."""
    code = f"""
import numpy as np, ray
ray.init('{cluster.address}', log_to_driver=False)
kept = [ray.put(np.zeros(10**7, np.uint8)) for _ in range({megabytes // 10})]
print('full', flush=True)
input()
"""
    line, pipes = [sys.executable, "-c", code], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(line, env=cluster.environment, text=True, stderr=subprocess.DEVNULL, **pipes) as program:  # type: ignore[call-overload]
        assert program.stdout.readline() == "full\n"
        yield
        program.communicate("\n")


def remount(at: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(at)], check=True, timeout=20)


def only_error(text: str) -> str:
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    return line


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


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        remount(disk, "ro")
        told = r"/out/\.lock: cannot lock: Read-only file system; mount it for writing"
        with pytest.raises(UserError, match=told), hold_output(str(disk / "out")):
            pass


@pytest.mark.parametrize("what", ["comes", *(pytest.param(what, marks=pytest.mark.slow) for what in ("is gone", "is another"))])
def test_a_shard_that_changes_before_it_is_read_ends_the_run_and_one_that_comes_is_not_of_it(
    case: Case, tmp_path: Path, what: str
) -> None:
    data, case = case.data, replace(case, data=Path(shutil.copytree(case.data, tmp_path / "data")))
    last = case.data / ("0024.parquet" if what == "comes" else "0023.parquet")
    job = case.start("compute=50ms")
    job.wait_until((case.out / "manifest.json").exists)  # it has listed the data, and read nothing of it yet
    last.unlink() if what == "is gone" else shutil.copy(case.data / "0007.parquet", last)
    done = job.end()
    if what == "comes":
        case.check_right(done)
    else:
        told = f"{last.name}: no such file" if what == "is gone" else "changed while the run read it"
        assert (done.code, told in only_error(done.stderr)) == (1, True), done.output
    refused = case.run("compute=1ms", "--resume")
    assert (refused.code, "changed" in only_error(refused.stderr)) == (2, True)
    last.unlink() if what == "comes" else shutil.copy2(data / "0023.parquet", last)
    case.resume()


@pytest.mark.slow
def test_a_full_object_store_spills_to_disk_and_costs_no_row(meshes: RayCluster, tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 8, images=512)
    spilled = tmp_path / "spilled"
    small = ["--object-store-memory=200000000", f"--object-spilling-directory={spilled}", '--resources={"TTNPU": 4}']
    with ray_head(tmp_path / "home", "--num-cpus=2", *small) as cluster, neighbour(cluster, megabytes=190):
        run(cluster, data, tmp_path / "out", "compute=100ms").succeeded()
        assert any(file.is_file() for file in spilled.rglob("*"))
    assert run(meshes, data, tmp_path / "expected").code == 0
    assert answers(tmp_path / "out") == answers(tmp_path / "expected")
    assert len(answers(tmp_path / "out").rows) == 8 * 512
