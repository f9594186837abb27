"""What a run's stages are to do, on what and where: made once, by the driver."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ray

from jobs.pipeline.cache import Cache
from jobs.pipeline.commit import Predictions, chunks_in_parts
from jobs.pipeline.ledger import check_seconds
from jobs.pipeline.placement import Placement
from jobs.pipeline.sources import Source
from vit_actor.device import Device
from vit_actor.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `stages.committed` takes.

    shards: list[bytes], as `surveyed` packed them, in the object store. share: see `unpacked`; (0, 1) is all of them.
    out: where predictions go. class_names: the checkpoint's, which rows are given.
    resume: whether chunks that are committed there are left out.
    doubtful: chunks to be classified again; where there are some, nothing else is.
    ledger: handle of the actor that keeps this plan's account. wait: called before anything is handed out.
    open_device, identity, limit_seconds, check_seconds: see Classifier.
    """

    source: Source
    shards: ray.ObjectRef
    preprocess: Preprocess
    open_device: Callable[[], Device]
    placement: Placement
    out: str
    ledger: Any
    identity: dict[str, Any]
    limit_seconds: float
    class_names: tuple[str, ...] = ()
    resume: bool = False
    doubtful: frozenset[str] = frozenset()
    cache: Cache | None = None
    share: tuple[int, int] = (0, 1)
    wait: Callable[[], None] | None = None
    check_seconds: float = field(default_factory=check_seconds)

    @cached_property
    def predictions(self) -> Predictions:
        """Where chunks are committed; on resume it knows those that are in files of many."""
        return Predictions(self.out, chunks_in_parts(self.out) if self.resume else frozenset(), self.doubtful, self.class_names)
