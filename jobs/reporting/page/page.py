"""The page of a run, from the report's tables: what to know first, then one section a question."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import pyarrow as pa

from jobs.reporting.page.batch_times import batch_times
from jobs.reporting.page.calibration import calibration
from jobs.reporting.page.classes import classes
from jobs.reporting.page.markup import render
from jobs.reporting.page.plots import drawing
from jobs.reporting.page.throughput import throughput
from jobs.reporting.page.time_spent import time_spent
from jobs.reporting.schema import Summary
from jobs.running.phases import PHASES

LISTED = 15
"""Rows of a short list: devices, pairs, errors, faults; the Parquet files have all."""

THIS_HOSTS = "Times and throughput are this host's, and say nothing about a T3000."
SIMULATIONS = {
    "simulated by ttnn's mock": (
        "MOCKED",
        f"the real ttnn drove its mock of the chips: nothing was computed on silicon. {THIS_HOSTS}",
    ),
    "simulated by ttsim": (
        "SIMULATED BY TTSIM",
        f"the real kernels ran in Tenstorrent's simulator of the chips, and the answers are theirs. {THIS_HOSTS}",
    ),
    "simulated": (
        "SIMULATED",
        "no accelerator ran. Times and throughput come from a model of the device; accuracy says nothing about a checkpoint.",
    ),
}
"""By how a device's description starts, the longest first: what of its run is real."""


def draw(summary: Summary, tables: dict[str, pa.Table], thumbnails: Mapping[str, bytes]) -> dict[str, Any]:
    """What the page's template shows beside the summary; its plots take most of a report's time.

    thumbnails: JPEGs by image_id, of examples in the confusion table.
    """
    rows = {name: table.to_pylist() for name, table in tables.items() if name not in ("confusion", "summary")}
    with drawing():
        drawn: dict[str, Any] = {
            "throughput": throughput(rows["throughput"], rows["faults"]),
            "devices": time_spent(rows["meshes"], LISTED),
            "classes": classes(summary, rows["per_class"]),
            "calibration": calibration(summary, rows["calibration"]),
            "batch_times": batch_times(summary, rows["batch_times"]),
        }
    started = min((row["window_start"] for row in rows["throughput"]), default=None)
    facts = [summary.job, f"run {summary.run_id}", started and f"{started.astimezone(UTC):%Y-%m-%d %H:%M} UTC"]
    kinds = {next((kind for kind in SIMULATIONS if device.startswith(kind)), None) for device in summary.devices}
    return drawn | {
        "t": rows,
        "facts": [" · ".join(fact for fact in [*facts, "; ".join(summary.devices[:8])] if fact)],
        "simulations": [text for kind, text in SIMULATIONS.items() if kind in kinds],
        "confused": _confused(tables["confusion"]),
        "thumbnails": {image: base64.b64encode(jpeg).decode() for image, jpeg in thumbnails.items()},
        "configuration": _configuration(summary),
    }


def page(summary: Summary, drawn: dict[str, Any]) -> str:
    """The page around what was drawn; equal arguments give an equal page. All text in it is escaped."""
    title = f"{summary.model or 'Predictions'} on {summary.data or summary.run_id}"
    return render("report.html", title=title, heading=title, s=summary, phases=PHASES, listed=LISTED, **drawn)


def _confused(confusion: pa.Table) -> dict[str, Any]:
    """Images with a wrong answer, pairs of label and answer that they make, and those with most images."""
    labels, predictions, counts = (confusion[name].to_pylist() for name in ("label", "prediction", "count"))
    wrong = [i for i, (label, prediction) in enumerate(zip(labels, predictions, strict=True)) if label != prediction]
    rows = [confusion.slice(i, 1).to_pylist()[0] for i in wrong[:LISTED]]
    return {"images": sum(counts[i] for i in wrong), "pairs": len(wrong), "rows": rows}


def _configuration(summary: Summary) -> list[tuple[str, str | None]]:
    facts = [("data", summary.data), ("model", summary.model), ("model digest (SHA-256)", summary.model_digest)]
    facts += (
        [("labels", f"{summary.labelled:,} of {summary.images:,}, from {summary.labels_from}")] if summary.labels_from else []
    )
    facts += [("not classified", kind) for kind in summary.left_out_kinds]
    facts += [("runs on", device) for device in summary.devices[:LISTED]]
    for name, value in json.loads(summary.config).items():
        facts.append((name, value if isinstance(value, str) or value is None else json.dumps(value)))
    return facts + [(f"{name} version", version) for name, version in json.loads(summary.versions).items()]
