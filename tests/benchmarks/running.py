"""The pipeline's stages inside a benchmark's own Ray session, as jobs.imagenet puts them together."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import ray

from jobs.pipeline.commit import Predictions
from jobs.pipeline.placement import Placement
from jobs.pipeline.sources import open_source, surveyed
from jobs.pipeline.stream import classify, read
from jobs.running.ledgers import open_ledger
from vit_actor.checkpoint import load_checkpoint
from vit_actor.opening import DeviceRequest

_runs = itertools.count()


def run_pipeline(data: Path, model: Path, placement: Placement, simulate: str = "") -> int:
    """Classify a folder and commit its predictions to a temporary place; the number of images that got a row."""
    checkpoint = load_checkpoint(str(model))
    with tempfile.TemporaryDirectory() as out:
        ledger, predictions = open_ledger(out), Predictions(out)
        source = open_source(str(data), checkpoint_classes=checkpoint.class_names)
        chunks = read(
            source,
            surveyed(source).shards,
            preprocess=checkpoint.preprocess,
            predictions=predictions,
            placement=placement,
            ledger=ledger,
            resume=False,
        )
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
        identity = {"run_id": f"benchmark-{next(_runs)}", "attempt": 1, "versions": {}}
        committed = classify(
            chunks, request, predictions, placement=placement, identity=identity, ledger=ledger, limit_seconds=120
        )
        images = sum(chunk["images"] for chunk in committed)
        ray.kill(ledger)  # it would live as long as this process, which is to run again
        return images
