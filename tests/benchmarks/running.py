"""The pipeline's stages inside a benchmark's own Ray session, as jobs.imagenet puts them together."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.data

from jobs.pipeline.placement import Placement
from jobs.pipeline.plan import Plan
from jobs.pipeline.sources import open_source, surveyed
from jobs.pipeline.stages import classified, committed
from jobs.running.ledgers import open_ledger
from jobs.running.session import ray_session
from vit_actor.checkpoint import load_checkpoint
from vit_actor.device import Device
from vit_actor.simulated import SimulatedTiming, SimulatedVit

INSTANT = "compute=1us,upload=0us,readback=0us,compile=0s"
ONE_ACTOR = Placement("simulated", actors=1, cpus=0.5, boards=0, decode_cpus=0.5)


def simulated(timing: str = INSTANT) -> SimulatedVit:
    return SimulatedVit(SimulatedTiming.from_spec(timing))


@contextmanager
def session() -> Iterator[None]:
    with ray_session(None, needed=("ray.data",)):
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.data.DataContext.get_current().target_max_block_size = 1
        yield


@contextmanager
def _planned(out: str, open_device: Callable[[], Device], placement: Placement, **more: Any) -> Iterator[Plan]:
    ledger = open_ledger(out)
    identity = {"run_id": "benchmark", "attempt": 1, "versions": {}}
    parts = {"source": None, "shards": None, "preprocess": None, "limit_seconds": 120} | more
    yield Plan(open_device=open_device, placement=placement, out=out, ledger=ledger, identity=identity, **parts)
    ray.kill(ledger)  # it would live as long as this process, which is to run again


def run_made(chunks: ray.data.Dataset, open_device: Callable[[], Device], out: str) -> Iterator[dict]:
    """Classify and commit chunks that a benchmark has made itself."""
    with _planned(out, open_device, ONE_ACTOR) as plan:
        yield from classified(chunks, plan)


def run_pipeline(data: Path, model: Path, placement: Placement) -> int:
    """Classify a folder on a device that answers at once, predictions in a temporary place; the images that got a row."""
    checkpoint = load_checkpoint(str(model))
    source = open_source(str(data), checkpoint_classes=checkpoint.class_names)
    more = {"source": source, "shards": ray.put(surveyed(source).shards), "preprocess": checkpoint.preprocess}
    with tempfile.TemporaryDirectory() as out, _planned(out, simulated, placement, **more) as plan:
        return sum(chunk["images"] for chunk in committed(plan))
