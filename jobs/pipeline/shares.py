"""A plan cut into shares, where one process cannot hand out all work: each has a process, shards and meshes of its own."""

import math
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ray

from jobs.pipeline.placement import Placement
from jobs.pipeline.plan import Plan
from jobs.pipeline.stages import committed
from vit_actor.device_time import T3000_IMAGES_PER_SECOND

SHARE_IMAGES_PER_SECOND = 50_000
"""What one process keeps up with: every chunk of up to 512 images costs it 10 ms (jobs/README.md)."""
TOLD_EVERY_SECONDS = 0.25  # A share's process tells the job of its chunks no more often
MOST_DEATHS = 3  # Times it may end, and be started again, before the run fails


def enough_shares(placement: Placement) -> int:
    """As few as feed all meshes at the rate assumed for a T3000."""
    if placement.device != "t3000":
        return 1
    return math.ceil(placement.actors * T3000_IMAGES_PER_SECOND / SHARE_IMAGES_PER_SECOND)


def shares(plan: Plan, ledgers: list[Any]) -> list[Plan]:
    """A plan for each ledger, meshes and shards shared out evenly.

    Each takes a mesh more wherever one becomes free: those of a share that is done, or of a host that joins.
    """
    of = len(ledgers)
    meshes = [plan.placement.actors // of + (index < plan.placement.actors % of) for index in range(of)]
    return [
        replace(plan, share=(index, of), placement=replace(plan.placement, actors=meshes[index]), ledger=ledger)
        for index, ledger in enumerate(ledgers)
    ]


def streamed(plans: list[Plan]) -> Iterator[dict[str, Any]]:
    """What `committed` yields of all plans, as it comes. Of several, each has its own process, which resumes where it ended.

    Raises what a plan raises, and its process's end at the MOST_DEATHS-th.
    """
    if len(plans) == 1:
        yield from committed(plans[0])
        return
    chunks: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def follow(plan: Plan) -> None:
        for life in range(MOST_DEATHS + 1):
            process = ray.remote(ShareProcess).options(num_cpus=0, scheduling_strategy="SPREAD").remote()
            try:
                for some in process.committed.options(num_returns="streaming").remote(plan):
                    for chunk in ray.get(some):
                        chunks.put(chunk)
                chunks.put(None)
                return
            except ray.exceptions.RayActorError as error:
                ray.kill(process)  # it may only have been out of reach for a moment
                if life == MOST_DEATHS:
                    chunks.put(error)
                plan = replace(plan, resume=True)
            except BaseException as error:  # whatever it is, the job's own thread raises it
                chunks.put(error)
                return

    for plan in plans:
        threading.Thread(target=follow, args=(plan,), daemon=True).start()
    running = len(plans)
    while running:
        chunk = chunks.get()
        if isinstance(chunk, BaseException):
            raise chunk
        if chunk is None:
            running -= 1
        else:
            yield chunk


class ShareProcess:
    """The actor that hands out a share."""

    def committed(self, plan: Plan) -> Iterator[list[dict[str, Any]]]:
        """Those of a moment together: one by one they cost the job's process 0.06 ms of CPU time each (measured on two cores), so
        16,500 chunks/s of all shares together would fill it. 1,000 LoudBoxes are projected to do 20,600."""
        held, told = [], time.monotonic()
        for chunk in committed(plan):
            held.append(chunk)
            if time.monotonic() - told > TOLD_EVERY_SECONDS:
                yield held
                held, told = [], time.monotonic()
        yield held
