"""How much work an actor is given, by what its device is expected to take for a chunk."""

import pytest

from jobs.pipeline.placement import Placement
from tests.commands import run_code


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
def test_a_slow_device_gets_fewer_chunks_and_from_any_host(device: str, chunk_seconds: float, calls: int, slow: bool) -> None:
    placement = Placement(device, actors=4, cpus=1, boards=0, decode_cpus=1, chunk_seconds=chunk_seconds)
    assert (placement.calls, placement.slow) == (calls, slow)


TWO_HOSTS = """
import logging, sys
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group
from jobs.pipeline.placement import place
from vit_actor.errors import UserError
offers = {"num_cpus": 3, "resources": {"TTNPU": 4}, "object_store_memory": 100_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=offers)
cluster.add_node(**{name: value for name, value in offers.items() if name != "include_dashboard"})
ray.init(cluster.address, logging_level=logging.ERROR)
held = [placement_group([{"TTNPU": 2}, {"TTNPU": 2}], "STRICT_SPREAD")]
assert held[0].wait(60)
def placed():
    return place("t3000", boards=4, meshes=None, flops_per_image=1.0, cpus_per_actor=None, wait_seconds=3)
try:
    print("placed", placed())
except UserError as error:
    print("refused", error)
remove_placement_group(held[0])
print("placed", placed().actors)
"""


@pytest.mark.slow
def test_free_boards_are_counted_by_host() -> None:
    done = run_code(TWO_HOSTS)
    refused, placed = [line for line in done.stdout.splitlines() if line.startswith(("placed", "refused"))]
    assert refused.startswith("refused the cluster is busy: an actor needs 4 TTNPU and 0.75 CPU on one host")
    assert placed == "placed 2"
    assert "waiting up to 3 s for 4 TTNPU and 0.75 CPU to be free on one host" in done.stderr
