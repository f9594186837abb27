"""What the tests on chips need: a chip, real or simulated, and models."""

import os
from pathlib import Path

import pytest

from tests.benchmarks.corpora import random_checkpoint

SIMULATED = "TT_METAL_SIMULATOR" in os.environ
IMAGES = 1 if SIMULATED else 8
"""A chip's in the tests of Base: a simulator takes half a minute for a pass of one layer and one image."""
PATIENCE = 6 * 3600 if SIMULATED else 120
"""Seconds for a mesh to open, or to answer: a simulated T3000 takes half an hour to open."""


@pytest.fixture(autouse=True)
def _chips(request: pytest.FixtureRequest) -> None:
    """Skip for want of a chip: of silicon, or where a test takes either, of silicon and of its simulator."""
    markers = {marker.name for marker in request.node.iter_markers()}
    if SIMULATED and "simulator" not in markers:
        pytest.skip("measures rates, which a simulator has none of")
    if not SIMULATED and not Path("/dev/tenstorrent").exists():
        pytest.skip("no /dev/tenstorrent, and TT_METAL_SIMULATOR is not set")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViT-Base with random weights: as fast as a trained one, and needs no download. One layer on a simulator."""
    return random_checkpoint(tmp_path_factory.mktemp("base"), num_hidden_layers=1 if SIMULATED else 12)
