"""The mock T3000 for the tests that ask for it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.mock_t3000 import environment


@pytest.fixture(scope="session")
def mock_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """ttnn in this process finds eight mock chips; the value is what another process needs to find them too."""
    return environment.activate(tmp_path_factory.mktemp("mock_t3000"))


@pytest.fixture(scope="module")
def mesh(mock_environment: dict[str, str]) -> Iterator[Any]:
    """A mock 1x8 mesh."""
    import ttnn

    mesh = ttnn.open_mesh_device(ttnn.MeshShape(1, 8), num_command_queues=2, l1_small_size=32 << 10, trace_region_size=32 << 20)
    yield mesh
    ttnn.close_mesh_device(mesh)


@pytest.fixture(scope="module")
def environ(mock_environment: dict[str, str]) -> Iterator[pytest.MonkeyPatch]:
    """The mock's variables, as processes that T3000Vit starts inherit them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mock_environment.items():
            patch.setenv(name, value)
        patch.delenv("TT_VISIBLE_DEVICES", raising=False)
        yield patch


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch without helpers: the goldens of a small model spend longer waking them than computing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
