"""How much work an actor is given, by what its device is expected to take for a chunk."""

from __future__ import annotations

import pytest

from jobs.pipeline.placement import Placement


@pytest.mark.parametrize(
    ("device", "chunk_seconds", "calls", "slow"),
    [
        ("t3000", 0.047, 5, False),
        ("simulated", 0.08, 5, False),
        ("simulated", 0.4, 2, False),
        ("simulated", 3.2, 2, True),
        ("cpu", 0.05, 2, False),
        ("cpu", 25.0, 2, True),
    ],
)
def test_a_slow_device_is_given_fewer_chunks_and_takes_them_from_any_host(
    device: str, chunk_seconds: float, calls: int, slow: bool
) -> None:
    placement = Placement(device, actors=4, cpus=1, boards=0, decode_cpus=1, chunk_seconds=chunk_seconds)
    assert (placement.calls, placement.slow) == (calls, slow)
