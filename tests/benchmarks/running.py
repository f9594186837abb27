"""The pipeline's stages inside a benchmark's own Ray session, as jobs.imagenet puts them together."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.data

from jobs.pipeline.placement import Placement
from jobs.pipeline.plan import Plan
from jobs.pipeline.sources import open_source, surveyed
from jobs.pipeline.stages import classified, committed
from jobs.running.ledgers import open_ledger
from jobs.running.output_lock import release_output
from vit_actor.checkpoint import load_checkpoint
from vit_actor.device import Device
from vit_actor.opening import DeviceRequest

_runs = itertools.count()


def run_made(chunks: ray.data.Dataset, open_device: Callable[[], Device], placement: Placement, out: str) -> Iterator[dict]:
    """Classify and commit chunks that a benchmark has made itself."""
    ledger = open_ledger(out)
    unused: Any = None
    plan = Plan(
        source=unused,
        shards=unused,
        preprocess=unused,
        open_device=open_device,
        placement=placement,
        out=out,
        ledger=ledger,
        identity={"run_id": "made", "attempt": 1, "versions": {}},
        limit_seconds=30,
    )
    yield from classified(chunks, plan)
    ray.kill(ledger)  # it would live as long as this process, which is to run again
    release_output(out)


def run_pipeline(data: Path, model: Path, placement: Placement, simulate: str = "") -> int:
    """Classify a folder and commit its predictions to a temporary place; the number of images that got a row."""
    checkpoint = load_checkpoint(str(model))
    with tempfile.TemporaryDirectory() as out:
        ledger = open_ledger(out)
        source = open_source(str(data), checkpoint_classes=checkpoint.class_names)
        request = DeviceRequest(
            device=placement.device,
            name=checkpoint.name,
            path=checkpoint.path,
            digest=checkpoint.digest,
            classes=checkpoint.config.num_labels,
            batch_size=64,
            threads=placement.threads,
            precision="auto",
            simulate=simulate,
        )
        plan = Plan(
            source=source,
            shards=ray.put(surveyed(source).shards),
            preprocess=checkpoint.preprocess,
            open_device=request,
            placement=placement,
            out=out,
            ledger=ledger,
            identity={"run_id": f"benchmark-{next(_runs)}", "attempt": 1, "versions": {}},
            limit_seconds=120,
        )
        images = sum(chunk["images"] for chunk in committed(plan))
        ray.kill(ledger)  # it would live as long as this process, which is to run again
        release_output(out)
        return images
