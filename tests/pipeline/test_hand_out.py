"""Which mesh gets a chunk: on Ray Data's own pool of actors, with made-up actors and completions."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from ray.data._internal.actor_autoscaler.autoscaling_actor_pool import AutoscalingActorConfig
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.data._internal.execution.operators.actor_pool_map_operator import _ActorState

from jobs.pipeline import hand_out
from jobs.pipeline.hand_out import EvenPool


@dataclass
class Bundle:
    """A chunk that lies on a host."""

    host: str
    size: dict[str, int] = field(default_factory=dict)

    def get_preferred_object_locations(self) -> dict[str, int]:
        return {self.host: 1}


class Actor:
    """Stands for a handle: told apart by identity."""


@pytest.fixture
def pool() -> EvenPool:
    config = AutoscalingActorConfig(
        min_size=2,
        max_size=2,
        initial_size=2,
        max_tasks_in_flight_per_actor=6,
        max_actor_concurrency=5,
        per_actor_resource_usage=ExecutionResources(cpu=1),
    )
    return EvenPool(create_actor_fn=lambda *_: None, config=config, map_worker_cls_name="mesh")


def join(pool: EvenPool, host: str) -> Actor:
    actor = Actor()
    pool._running_actors[actor] = _ActorState(num_tasks_in_flight=0, actor_location=host, is_restarting=False)
    pool._alive_actors_to_in_flight_tasks_heap[actor] = 0
    pool._alive_node_to_actor_heap[host][actor] = 0
    return actor


def give(pool: EvenPool, host: str) -> Actor | None:
    actor = pool.select_actors(Bundle(host), actor_locality_enabled=True)
    if actor is not None:
        pool.on_task_submitted(actor)
    return actor


def test_a_chunk_goes_to_its_own_host_unless_another_mesh_has_nothing_or_clearly_less(pool: EvenPool) -> None:
    a, b = join(pool, "a"), join(pool, "b")
    assert [give(pool, "a") for _ in range(6)] == [a, b, a, a, b, a]


def test_all_get_as_many_whatever_host_the_chunks_lie_on(pool: EvenPool) -> None:
    a, b = join(pool, "a"), join(pool, "b")
    given = [give(pool, "a") for _ in range(13)]
    assert (given.count(a), given.count(b), given.count(None)) == (6, 6, 1)


@pytest.mark.parametrize(("seconds", "enough"), [(10.0, 2), (3.2, 2), (0.5, 3), (0.3, 5), (0.05, 6)])
def test_a_slow_device_is_given_less_ahead_than_a_fast_one(
    pool: EvenPool, monkeypatch: pytest.MonkeyPatch, seconds: float, enough: int
) -> None:
    now = [0.0]
    monkeypatch.setattr(hand_out.time, "monotonic", lambda: now[0])
    mesh = join(pool, "a")
    while give(pool, "a"):
        pass
    for _ in range(6):
        now[0] += seconds
        pool.on_task_completed(mesh)
    while give(pool, "a"):
        pass
    assert pool._running_actors[mesh].num_tasks_in_flight == enough
    assert pool.get_pool_util() > 1.1  # full: Ray Data asks for another actor


def test_a_device_that_had_nothing_to_do_meanwhile_is_not_taken_for_slow(pool: EvenPool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(hand_out.time, "monotonic", lambda: now[0])
    mesh = join(pool, "a")
    for _ in range(5):
        give(pool, "a")
        now[0] += 30.0
        pool.on_task_completed(mesh)
    while give(pool, "a"):
        pass
    assert pool._running_actors[mesh].num_tasks_in_flight == 6
