"""Which mesh gets the next chunk: one on the chunk's own host, as long as no other has clearly less to do.

Ray Data gives a chunk to the host that decoded it even where that mesh has six waiting and another none, and hands out a
number of chunks ahead, not an amount of work: six chunks are a quarter of a second of a T3000 and half a minute of a slow
device. Both leave meshes without work at a run's end.
"""

from __future__ import annotations

import math
import time
from typing import Any

from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.execution.operators.actor_pool_map_operator import _NodeAwareActorPool

AHEAD_SECONDS = 1.0
"""Work a mesh has waiting, beside the chunk it is at: what committing, handing out and moving the next one may take."""

LOCAL_LEAD = 1
"""Chunks that a mesh may have more than another and still be given one that lies on its own host."""


def hand_out_evenly() -> None:
    """From now on Ray Data's actor pools in this process are EvenPools; Ray has no public way to choose one."""
    actor_pool_map_operator._NodeAwareActorPool = EvenPool


class EvenPool(_NodeAwareActorPool):
    """Ray Data's pool of actors, with another choice of the actor that gets a chunk."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chunk_seconds: float | None = None
        self._last_done: dict[Any, float] = {}

    def select_actors(self, bundle: Any = None, actor_locality_enabled: bool = False) -> Any:
        """The actor for a chunk, or None where all have enough."""
        target = super().select_actors(bundle, actor_locality_enabled)
        if target is None:
            return None
        in_flight = self._alive_actors_to_in_flight_tasks_heap
        idlest, fewest = in_flight.peekitem()
        if fewest >= self._enough():
            return None
        lead = LOCAL_LEAD if fewest else 0  # none has to wait for another to have its second chunk
        return target if in_flight[target] - fewest <= lead and in_flight[target] < self._enough() else idlest

    def get_pool_util(self) -> float:
        """Above 1 where all have enough, as Ray Data's own does where all are full: it then asks for another actor."""
        return super().get_pool_util() * self.max_tasks_in_flight_per_actor() / self._enough()

    def _enough(self) -> int:
        """Chunks for an actor: those it is configured for, or fewer where that is more than AHEAD_SECONDS of work."""
        most: int = self.max_tasks_in_flight_per_actor()
        if self._chunk_seconds is None:
            return most
        return min(most, 1 + math.ceil(AHEAD_SECONDS / self._chunk_seconds))

    def on_task_completed(self, actor: Any) -> None:
        """Learn from each chunk how long one takes; an actor that had others waiting was busy since its last one."""
        super().on_task_completed(actor)
        now, last = time.monotonic(), self._last_done.get(actor)
        if last is not None:
            took = max(now - last, 1e-3)
            self._chunk_seconds = took if self._chunk_seconds is None else 0.75 * self._chunk_seconds + 0.25 * took
        self._last_done[actor] = now
        if not self._running_actors[actor].num_tasks_in_flight:
            del self._last_done[actor]
