"""A Ray cluster of simulated meshes, for the jobs that compare how many are at work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import RayCluster, ray_head


@pytest.fixture(scope="session")
def mesh_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One host with the boards of four meshes."""
    with ray_head(tmp_path_factory.mktemp("mesh-home"), "--num-cpus=4", '--resources={"TTNPU": 16}') as cluster:
        yield cluster
