"""Which mesh gets a chunk: on Ray Data's own pool of actors, with made-up actors and completions."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from ray.data._internal.actor_autoscaler.autoscaling_actor_pool import AutoscalingActorConfig
from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.data._internal.execution.operators.actor_pool_map_operator import _ActorState

from jobs.pipeline import hand_out
from jobs.pipeline.hand_out import EvenPool

LOOKS = "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"


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
def pool(monkeypatch: pytest.MonkeyPatch) -> EvenPool:
    monkeypatch.setattr(streaming_executor_state, LOOKS, 0.1)  # as Ray has it, and is to have it again after the test
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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(hand_out.time, "monotonic", lambda: now[0])
    return now


def work(pool: EvenPool, clock: list[float], chunk_seconds: float, *meshes: Actor) -> None:
    """Let each mesh have done a chunk, in the same time; then none has any."""
    for mesh in meshes:
        pool.on_task_submitted(mesh)
    clock[0] += chunk_seconds
    for mesh in meshes:
        pool.on_task_completed(mesh)


def test_before_anything_is_known_all_get_as_many_whatever_host_the_chunks_lie_on(pool: EvenPool) -> None:
    a, b = join(pool, "a"), join(pool, "b")
    given = [give(pool, "a") for _ in range(13)]
    assert given[:2] == [a, b]
    assert (given.count(a), given.count(b), given.count(None)) == (6, 6, 1)


def test_a_fast_mesh_keeps_the_chunks_of_its_own_host_up_to_one_more_than_another_has(pool: EvenPool, clock: list[float]) -> None:
    a, b = join(pool, "a"), join(pool, "b")
    work(pool, clock, 0.08, a, b)
    assert [give(pool, host) for host in "aaaab"] == [a, b, a, a, b]


def test_a_slow_mesh_gets_no_chunk_that_another_would_get_to_sooner(pool: EvenPool, clock: list[float]) -> None:
    a, b = join(pool, "a"), join(pool, "b")
    work(pool, clock, 3.2, a, b)
    assert give(pool, "a") is a
    clock[0] += 2.0
    assert give(pool, "b") is b
    assert give(pool, "b") is a  # in 1.2 s, where b takes 3.2 s


@pytest.mark.parametrize(("seconds", "enough"), [(10.0, 2), (3.2, 2), (0.5, 3), (0.3, 5), (0.05, 6)])
def test_a_slow_device_is_given_less_ahead_than_a_fast_one(
    pool: EvenPool, clock: list[float], seconds: float, enough: int
) -> None:
    mesh = join(pool, "a")
    while give(pool, "a"):
        pass
    for _ in range(6):
        clock[0] += seconds
        pool.on_task_completed(mesh)
    while give(pool, "a"):
        pass
    assert pool._running_actors[mesh].num_tasks_in_flight == enough
    assert pool.get_pool_util() > 1.1  # full: Ray Data asks for another actor


def test_time_without_work_is_not_taken_for_slowness(pool: EvenPool, clock: list[float]) -> None:
    mesh = join(pool, "a")
    for _ in range(5):
        work(pool, clock, 0.05, mesh)
        clock[0] += 30.0
    while give(pool, "a"):
        pass
    assert pool._running_actors[mesh].num_tasks_in_flight == 6


@pytest.mark.parametrize(
    ("seconds", "look"), [(10.0, 0.1), (0.5, 0.1), (0.1, 0.05), (0.047, 0.0235), (0.036, 0.018), (0.02, 0.1), (0.001, 0.1)]
)
def test_completions_are_looked_for_often_where_chunks_come_one_by_one(
    pool: EvenPool, clock: list[float], seconds: float, look: float
) -> None:
    a, b = join(pool, "a"), join(pool, "b")
    for _ in range(6):  # two at once, as a look finds them
        work(pool, clock, 2 * seconds, a, b)
    clock[0] += seconds
    pool.on_task_submitted(a)
    pool.on_task_completed(a)
    assert getattr(streaming_executor_state, LOOKS) == pytest.approx(look, rel=0.2)
    EvenPool(create_actor_fn=lambda *_: None, config=pool._config, map_worker_cls_name="mesh")
    assert getattr(streaming_executor_state, LOOKS) == 0.1
