"""Predictions as a run leaves them: Parquet files of one mesh each with the run's footer, and the manifest."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.pipeline.schema import PREDICTIONS

START = datetime(2025, 3, 1, 12, tzinfo=UTC)


def metadata(mesh: str = "host-a/0-3", attempt: int = 1, **changes: Any) -> dict[str, Any]:
    """A chunk's footer."""
    return {
        "run_id": "run-1",
        "attempt": attempt,
        "mesh": mesh,
        "description": "cpu, float32",
        "batch_size": 4,
        "compile_seconds": 1.5,
        "versions": {"torch": "2.13.0"},
        "chunk": "images-000000-0123456789abcdef.00000",
        "read_cpu_seconds": 0.25,
        **changes,
    }


def row(
    label: int | None, prediction: int | None, batch: int | None = 0, at: float = 0.0, seconds: float = 0.1, **changes: Any
) -> dict:
    """One prediction row; no prediction makes it an error. `at`: seconds after START."""
    failed = prediction is None
    return {
        "image_id": f"{label}/{batch}-{at}.jpg",
        "label": label,
        "prediction": prediction,
        "top5": None if failed else [prediction, *range(100, 104)],
        "top5_probability": None if failed else [0.9, 0.05, 0.03, 0.01, 0.01],
        "held_prediction": None,
        "correct": None if label is None else prediction == label,
        "error": "truncated file" if failed else None,
        "host": "host-a",
        "mesh": "host-a/0-3",
        "batch": None if failed else batch,
        "started_at": None if failed else START + timedelta(seconds=at),
        "batch_seconds": None if failed else seconds,
        "run_id": "run-1",
        **changes,
    }


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def write_file(out: Path, name: str, contents: pa.Table | list[dict], footer: dict[str, Any]) -> Path:
    """One file of `<out>/predictions`, its footer as a run writes it."""
    if isinstance(contents, list):
        contents = table(contents)
    path = out / "predictions" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {b"loudbox-vit": json.dumps(footer).encode()}
    pq.write_table(contents.replace_schema_metadata({**(contents.schema.metadata or {}), **about}), path)
    return path


def write_manifest(out: Path, **changes: Any) -> None:
    contents: dict[str, Any] = {
        "run_id": "run-1",
        "job": "imagenet",
        "data": "/nowhere/validation",  # so that no report goes looking for pictures
        "model": "google/vit-base-patch16-224",
        "model_digest": "ab" * 32,
        "class_names": [f"class {i}" for i in range(10)],
        "settings": {"batch_size": 4, "limit": None},
        "versions": {"ray": "2.60.0"},
        "images": None,
        "attempts": [{"attempt": 1, "started_at": START.isoformat(), "ended_at": None, "state": "running"}],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").write_text(json.dumps(contents | changes))


def chunk(
    rng: np.random.Generator, images: int, classes: int, batch_size: int, start: float, seconds: float, first_batch: int = 0
) -> pa.Table:
    """A table of `images` rows as one mesh writes them: about 80% right, 1% unreadable, batches back to back."""
    times = seconds * rng.lognormal(0, 0.05, images // batch_size + 1)
    starts = start + np.cumsum(times) - times
    labels, off = rng.integers(0, classes, images), rng.integers(1, 4, images)
    right, failed = rng.random(images) < 0.8, rng.random(images) < 0.01
    batches = np.cumsum(~failed) - 1
    rows = []
    for i, label in enumerate(labels.tolist()):
        prediction, batch = int(label if right[i] else (label + off[i]) % classes), max(0, int(batches[i])) // batch_size
        more: dict[str, Any] = {
            "image_id": f"n{label:08d}/{first_batch}-{i}.JPEG",
            "error": f"truncated file ({i} bytes missing)",
        }
        if not failed[i]:
            more |= {"top5": [(prediction + k) % classes for k in range(5)], "error": None}
        answer = None if failed[i] else prediction
        rows.append(row(label, answer, first_batch + batch, float(starts[batch]), float(times[batch]), **more))
    return table(rows)
