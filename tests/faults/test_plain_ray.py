"""LOUDBOX_PLAIN_RAY=1: the same answers on Ray as it is, on a cluster that knows nothing of this project and without one."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.pipeline.ray_internals import PLAIN_RAY
from tests.commands import begin
from tests.conftest import RayCluster, ray_head
from tests.faults.running import MODEL, Case, command, lose_chunks


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(PLAIN_RAY, "1")
        with ray_head(tmp_path_factory.mktemp("plain-home"), "--num-cpus=2", '--resources={"TTNPU": 8}') as cluster:
            yield replace(cluster, environment={**cluster.environment, PLAIN_RAY: "1"})


def test_an_actor_that_is_killed_a_resume_and_two_streams_answer_as_ever(case: Case, plain: RayCluster) -> None:
    case = replace(case, cluster=plain)
    job = case.start("compute=300ms", "--streams=2")
    job.wait_for_meshes(2)
    case.kill_one("Classifier")
    case.check_right(job.end())
    assert case.summary["restarts"] >= 1
    lose_chunks(case.out, 3)
    case.resume()


def test_scaling_with_data_runs(plain: RayCluster, data: Path, tmp_path: Path) -> None:
    job = ["jobs.scaling", "--data", str(data), "--out", str(tmp_path / "out"), "--model", str(MODEL), "--device", "simulated"]
    begin(*job, "--limit=256", "--rounds=1", "--address", plain.address, environment=plain.environment).end().succeeded()
    table = pq.read_table(tmp_path / "out" / "report" / "scaling.parquet").to_pylist()
    assert {row["meshes"] for row in table} == {1, 2}


@pytest.mark.slow
def test_a_job_that_starts_its_own_ray_answers_as_ever(case: Case) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {PLAIN_RAY: "1"}
    _, *line = command(case.data, case.out, "compute=1ms")
    case.check_right(begin(*line, environment=environment).end())
