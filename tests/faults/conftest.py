"""Two simulated meshes on one host, a data set of many small chunks, and what an undisturbed run answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RayCluster, ray_head
from tests.faults.running import Answers, Case, answers, run, write_shards


@pytest.fixture(scope="package")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One host with the boards of two meshes."""
    with ray_head(tmp_path_factory.mktemp("faults-home"), "--num-cpus=2", '--resources={"TTNPU": 8}') as cluster:
        yield cluster


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,536 images in 24 chunks."""
    return write_shards(tmp_path_factory.mktemp("faults") / "data", 24)


@pytest.fixture(scope="package")
def undisturbed(meshes: RayCluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(meshes, data, out).succeeded()
    found = answers(out)
    assert len(found.rows) == 1536
    return found


@pytest.fixture
def case(meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path) -> Case:
    return Case(meshes, data, undisturbed, tmp_path / "out")
