"""Several streams side by side in one job, where one process cannot feed all meshes: each has a share of shards and of meshes."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray

from jobs.pipeline.cache import Cache
from jobs.pipeline.commit import Predictions, chunks_in_parts
from jobs.pipeline.placement import Placement
from jobs.pipeline.sources import Source
from vit_actor.device import Device
from vit_actor.device_time import T3000_IMAGES_PER_SECOND
from vit_actor.preprocess import Preprocess

STREAM_IMAGES_PER_SECOND = 50_000
"""What one process keeps up with: every chunk of up to 512 images costs it 10 ms (jobs/README.md)."""
TOLD_EVERY_SECONDS = 0.25
"""A stream tells the job of its chunks no more often."""
MOST_DEATHS = 3
"""Times a stream's process may end, and be started again, before the run fails."""


def enough_streams(placement: Placement) -> int:
    """As few as feed all meshes at the rate assumed for a T3000."""
    if placement.device != "t3000":
        return 1
    return math.ceil(placement.actors * T3000_IMAGES_PER_SECOND / STREAM_IMAGES_PER_SECOND)


@dataclass(frozen=True)
class Stream:
    """What `read` and `classify` take.

    shards: list[bytes], as `surveyed` packed them, in the object store: every stream has all, and reads its share.
    """

    source: Source
    shards: ray.ObjectRef
    placement: Placement
    ledger: Any
    out: str
    preprocess: Preprocess
    cache: Cache | None
    open_device: Callable[[], Device]
    identity: dict[str, Any]
    limit_seconds: float
    resume: bool
    share: tuple[int, int] = (0, 1)

    def rows(self) -> Iterator[dict[str, Any]]:
        """What `classify` tells of each chunk as it is committed."""
        from jobs.pipeline.stream import classify, read

        in_parts = chunks_in_parts(self.out) if self.resume else frozenset()
        common: dict[str, Any] = {
            "predictions": Predictions(self.out, in_parts),
            "placement": self.placement,
            "ledger": self.ledger,
        }
        shards = ray.get(self.shards)
        own: dict[str, Any] = {"preprocess": self.preprocess, "resume": self.resume, "cache": self.cache, "share": self.share}
        chunks = read(self.source, shards, **own, **common)
        return classify(chunks, self.open_device, identity=self.identity, limit_seconds=self.limit_seconds, **common)


def shares(stream: Stream, ledgers: list[Any]) -> list[Stream]:
    """The stream cut into one for each ledger, meshes and shards shared out evenly.

    Each takes a mesh more wherever one becomes free: those of a stream that has finished, or of a host that joins.
    """
    of = len(ledgers)
    meshes = [stream.placement.actors // of + (index < stream.placement.actors % of) for index in range(of)]
    return [
        replace(stream, share=(index, of), placement=replace(stream.placement, actors=meshes[index]), ledger=ledger)
        for index, ledger in enumerate(ledgers)
    ]


def run_together(streams: list[Stream]) -> Iterator[dict[str, Any]]:
    """The rows of all streams as they come, each stream in a process of its own; one that ends is started again and resumes.

    Raises what a stream raises, and its process's end at the MOST_DEATHS-th.
    """
    rows: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def follow(stream: Stream) -> None:
        for life in range(MOST_DEATHS + 1):
            process = ray.remote(_Process).options(num_cpus=0, scheduling_strategy="SPREAD").remote()
            try:
                for some in process.rows.options(num_returns="streaming").remote(stream):
                    for row in ray.get(some):
                        rows.put(row)
                rows.put(None)
                return
            except ray.exceptions.RayActorError as error:
                if life == MOST_DEATHS:
                    rows.put(error)
                stream = replace(stream, resume=True)
            except BaseException as error:  # whatever it is, the job's own thread raises it
                rows.put(error)
                return

    for stream in streams:
        threading.Thread(target=follow, args=(stream,), daemon=True).start()
    running = len(streams)
    while running:
        row = rows.get()
        if isinstance(row, BaseException):
            raise row
        if row is None:
            running -= 1
        else:
            yield row


class _Process:
    """A stream's process."""

    def rows(self, stream: Stream) -> Iterator[list[dict[str, Any]]]:
        """Those of a moment together: one by one they cost the job's process 0.06 ms of CPU time each (measured on two cores), so
        16,500 chunks/s of all streams together would fill it. 1,000 LoudBoxes are projected to do 20,600."""
        held, told = [], time.monotonic()
        for row in stream.rows():
            held.append(row)
            if time.monotonic() - told > TOLD_EVERY_SECONDS:
                yield held
                held, told = [], time.monotonic()
        yield held
