"""Which mesh gets the next chunk, and how soon: one on the chunk's own host, if no other would get to it clearly sooner.

Ray Data gives a chunk to the host that decoded it even where that mesh has six waiting and another none, and hands out a
number of chunks ahead, not an amount of work: six chunks are a quarter of a second of a T3000 and half a minute of a slow
device. Both leave meshes without work at a run's end. It also looks only ten times a second for what has been read and
answered, which leaves a mesh that takes 20 chunks a second without work again and again where few tasks read for it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.execution.operators.actor_pool_map_operator import _NodeAwareActorPool

AHEAD_SECONDS = 1.0
"""Work a mesh has waiting, beside the chunk it is at: what committing, handing out and moving the next one may take."""

LOCAL_SECONDS = 0.25
"""How much later a mesh on the chunk's own host may get to it than another, at most by a chunk: what moving 77 MB may take."""

LOOK_SECONDS = 0.1
"""Most time between two looks of Ray Data's scheduling loop: always, as Ray has it."""

LOOKS_A_CHUNK = 2
"""Looks between two chunks. A look costs CPU time: on two cores that read from a cache for a simulated T3000, Ray's own pace and
1, 2 and 4 looks a chunk gave 7,100, 7,600, 8,200 and 7,400 images/s (medians of four rounds)."""

COUNTED = 10
"""Chunks that tell how many come a second; fewer would not, since a look finds several at once."""

MANY_A_SECOND = 30
"""Chunks, from which on Ray's own pace will do: each look then finds several, and more looks would only cost CPU time."""


def hand_out_evenly() -> None:
    """From now on Ray Data's actor pools in this process are EvenPools; Ray has no public way to choose one."""
    actor_pool_map_operator._NodeAwareActorPool = EvenPool


class EvenPool(_NodeAwareActorPool):
    """Ray Data's pool of actors, with another choice of the actor that gets a chunk."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chunk_seconds: float | None = None
        self._since: dict[Any, float] = {}  # when an actor began the chunk that it is at
        self._done: deque[float] = deque(maxlen=COUNTED)  # when the latest chunks of all actors were
        look_every(LOOK_SECONDS)

    def select_actors(self, bundle: Any = None, actor_locality_enabled: bool = False) -> Any:
        """The actor for a chunk, or None where all have enough."""
        in_flight = self._alive_actors_to_in_flight_tasks_heap
        if not in_flight or in_flight.peekitem()[1] >= self._enough():
            return None
        if bundle is None:
            return in_flight.peekitem()[0]
        local = super().select_actors(bundle, actor_locality_enabled)
        soonest = min(in_flight, key=self._seconds_left)
        lead = self._seconds_left(local) - self._seconds_left(soonest)
        near = lead <= min(LOCAL_SECONDS, self._chunk_seconds or 1.0) and in_flight[local] < self._enough()
        # None has to wait for another to have its second chunk.
        return local if near and bool(in_flight[local]) <= bool(in_flight[soonest]) else soonest

    def get_pool_util(self) -> float:
        """Above 1 where all have enough, as Ray Data's own does where all are full: it then asks for another actor."""
        return super().get_pool_util() * self.max_tasks_in_flight_per_actor() / self._enough()

    def on_task_submitted(self, actor: Any) -> None:
        """Remember since when the actor is at work."""
        super().on_task_submitted(actor)
        self._since.setdefault(actor, time.monotonic())

    def on_task_completed(self, actor: Any) -> None:
        """Learn from each chunk how long one takes."""
        super().on_task_completed(actor)
        now = time.monotonic()
        took = max(now - self._since.pop(actor, now), 1e-3)
        self._chunk_seconds = took if self._chunk_seconds is None else 0.75 * self._chunk_seconds + 0.25 * took
        if self._running_actors[actor].num_tasks_in_flight:
            self._since[actor] = now
        self._done.append(now)
        if len(self._done) > 1:
            chunk_every = (now - self._done[0]) / (len(self._done) - 1)
            many = len(self._done) == COUNTED and chunk_every < 1 / MANY_A_SECOND
            look_every(LOOK_SECONDS if many else chunk_every / LOOKS_A_CHUNK)

    def _enough(self) -> int:
        """Chunks for an actor: those it is configured for, or fewer where that is more than AHEAD_SECONDS of work."""
        most: int = self.max_tasks_in_flight_per_actor()
        if self._chunk_seconds is None:
            return most
        return min(most, 1 + math.ceil(AHEAD_SECONDS / self._chunk_seconds))

    def _seconds_left(self, actor: Any) -> float:
        """Of work that an actor has, as far as it is known; before the first chunk is done, a second for each."""
        chunks = self._alive_actors_to_in_flight_tasks_heap[actor]
        took = self._chunk_seconds or 1.0
        at_work = time.monotonic() - self._since.get(actor, math.inf) if chunks and self._chunk_seconds else 0.0
        return chunks * took - min(at_work, took)


def look_every(seconds: float) -> None:
    """How long Ray Data's loop waits, unless all that is under way is done sooner; at most LOOK_SECONDS."""
    streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S = min(LOOK_SECONDS, seconds)
