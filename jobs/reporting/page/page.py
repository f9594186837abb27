"""The page of a run, from the report's tables: what was run, how good it is, which classes and pictures, then its time."""

import base64
import json
import sys
from collections import defaultdict
from datetime import UTC
from typing import Any

import pyarrow.compute as pc

from jobs.reporting.outcome import allowed_errors
from jobs.reporting.page.accuracy import calibration, classes
from jobs.reporting.page.markup import environment
from jobs.reporting.page.speed import batch_times, throughput, time_spent
from jobs.reporting.page.thumbnails import thumbnails
from jobs.reporting.schema import Summary
from jobs.reporting.tables import MOST_PAIRS, Reports
from jobs.running.manifest import Manifest
from jobs.running.phases import PHASES
from jobs.running.terminal import say
from jobs.running.words import short_name, shortened
from jobs.settings import as_typed
from jobs.storage.address import shown

RUN = "report.html"  # The page's template
LISTED = 15  # Rows of a short list: devices, reasons, faults; the Parquet files have all
MOST_PICTURE_BYTES = 2_500_000  # Of the page; pictures beyond are left out
PLACES = ("mistakes", "doubt", "pair", "class")  # Who gets the room first
FEW_CLASSES = 10  # Of so many classes top-5 says little

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


def draw(reports: Reports, summary: Summary, data: str | None) -> dict[str, Any]:
    """What the page's template RUN shows beside the summary `s`, pictures among it.

    data: where the images are (default: what the manifest says).
    """
    tables = reports.tables
    rows = {name: table.to_pylist() for name, table in tables.items() if name != "confusion"}
    pictures = reports.pictures()
    jpegs = thumbnails(reports.manifest, data, pictures)
    if pictures and reports.manifest and not jpegs:
        say(f"no pictures on the page: its images cannot be read again at {shown(data or reports.manifest.data)}", sys.stderr)
    wrong = tables["confusion"].filter(pc.not_equal(tables["confusion"]["label"], tables["confusion"]["prediction"]))
    wrong_images = pc.sum(wrong["count"]).as_py() or 0
    chosen = reports.manifest.chosen if reports.manifest else {}
    most = chosen.get("max_errors")
    started = min((row["window_start"] for row in rows["throughput"]), default=None)
    times = f"{summary.run_id}, {started.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if started else summary.run_id
    named = f"{short_name(summary.data)} classified by {short_name(summary.model)}" if summary.data and summary.model else None
    return {
        "confused": {"images": wrong_images, "pairs": len(wrong), "rows": wrong.slice(0, MOST_PAIRS).to_pylist()},
        "pictures": _pictures(pictures, jpegs),
        "title": chosen.get("title") or named or f"Predictions of run {summary.run_id}",
        "facts": run_facts(
            reports.manifest,
            data=summary.data,
            labels=summary.labels_from,
            model=summary.model,
            device="; ".join(summary.devices[:8]),
            chips=summary.chips,
            run=times,
        ),
        "allowed": None if most is None else allowed_errors(most, summary.images),
        "simulations": simulations(summary.devices),
        "many_classes": len(rows["per_class"]) > FEW_CLASSES,
        "classes": classes(summary, rows["per_class"], tables["confusion"]),
        "calibration": calibration(summary, rows["calibration"]),
        "throughput": throughput(rows["throughput"], rows["faults"]),
        "batch_times": batch_times(summary, rows["batch_times"]),
        "devices": time_spent(rows["meshes"], LISTED),
        "unread": reports.unread(),
        "configuration": configuration(summary.model_digest, json.loads(summary.config), json.loads(summary.versions)),
        "phases": PHASES,
        "listed": LISTED,
        "t": rows,
    }


def prepare() -> None:
    """Read the page's template, which takes a while, ahead of the page."""
    environment().get_template(RUN)


def run_facts(manifest: Manifest | None, **facts: str | None) -> list[tuple[str, str | None]]:
    """What was run, by name, with the command where the manifest has what was chosen."""
    named = {name.capitalize(): fact for name, fact in facts.items()}
    return list((named | {"Command": as_typed(manifest.job, manifest.chosen) if manifest and manifest.chosen else None}).items())


def simulations(devices: list[str]) -> list[tuple[str, str]]:
    kinds = {next((kind for kind in SIMULATIONS if device.startswith(kind)), None) for device in devices}
    return [text for kind, text in SIMULATIONS.items() if kind in kinds]


def _pictures(pictures: list[dict[str, Any]], jpegs: dict[str, bytes]) -> dict[Any, list[dict[str, Any]]]:
    """Those that could be read, as long as there is room, by place: a pair's is (label, prediction), a class's (prediction,)."""
    room = MOST_PICTURE_BYTES
    found: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for each in sorted(pictures, key=lambda picture: PLACES.index(picture["place"])):
        jpeg = base64.b64encode(jpegs.get(each["image_id"], b"")).decode()
        if jpeg and room >= len(jpeg):
            room -= len(jpeg)
            label, prediction, answer = each["label"], each["prediction"], each["predicted_name"]
            taken = f", taken for {answer}" if label not in (None, prediction) else ""
            says = f"{each['label_name'] or answer}{taken}: {each['image_id']}, {each['probability']:.1%} sure"
            place = {"pair": (label, prediction), "class": (prediction,)}.get(each["place"], each["place"])
            found[place].append(each | {"jpeg": f"data:image/jpeg;base64,{jpeg}", "says": shortened(says, 300)})
    return found


SHOWN_ABOVE = {"data", "labels", "model_digest"}  # Settings that the page says elsewhere


def configuration(digest: str | None, settings: dict[str, Any], versions: dict[str, str]) -> list[tuple[str, str]]:
    facts = [("checkpoint's digest (SHA-256)", digest)]
    for name, value in settings.items():
        if name not in SHOWN_ABOVE and value is not None:
            if isinstance(value, dict):
                value = ", ".join(f"{part.replace('_', ' ')} {some}" for part, some in value.items() if some not in (None, False))
            facts.append((name.replace("_", " "), str(value)))
    facts += [(f"{name} version", version) for name, version in versions.items()]
    return [(name, value) for name, value in facts if value]
