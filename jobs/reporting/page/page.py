"""The page of a run, from the report's tables: what was run, how good it is, which classes and pictures, then its time."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC
from itertools import chain
from typing import Any

import pyarrow as pa

from jobs.reporting.counts import PICTURED
from jobs.reporting.page.accuracy import calibration, classes
from jobs.reporting.page.markup import render
from jobs.reporting.page.plots import Rows
from jobs.reporting.page.speed import batch_times, throughput, time_spent
from jobs.reporting.page.thumbnails import thumbnails
from jobs.reporting.schema import Summary
from jobs.reporting.tables import Picture, Reports
from jobs.reporting.words import short_name, shortened
from jobs.running.manifest import Manifest
from jobs.running.phases import PHASES

LISTED = 15
"""Rows of a short list: devices, pairs, reasons, faults; the Parquet files have all."""
OF_A_PAIR, OF_A_CLASS = 4, 6
"""Pictures of each pair and of each class."""
SAMPLED = 50
"""Classes with pictures: those predicted most."""
MOST_PICTURE_BYTES = 2_500_000
"""Of the page; pictures beyond are left out."""
FEW_CLASSES = 10
"""Of so many classes top-5 says little."""

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


class Wanted:
    """The pictures that the page shows, by why; the order of what is predicted most and of the most confused pairs decides."""

    def __init__(self, summary: Summary, tables: Mapping[str, pa.Table], pictures: Iterable[Picture]) -> None:
        self.pairs, self.wrong, self.wrong_pairs = _confused(tables["confusion"])
        by_class = [row for row in tables["per_class"].select(["class", "name", "predicted"]).to_pylist() if row["predicted"]]
        self.classes = sorted(by_class, key=lambda row: (-row["predicted"], row["class"]))[:SAMPLED]
        of_pair = {(row["label"], row["prediction"]): row["count"] for row in self.pairs}
        sampled = {row["class"] for row in self.classes}
        self.mistakes: list[Picture] = []
        self.doubts: list[Picture] = []
        self.of_pair: defaultdict[tuple[int | None, int], list[Picture]] = defaultdict(list)
        self.of_class: defaultdict[int, list[Picture]] = defaultdict(list)
        for picture in pictures:
            pair = picture.label, picture.prediction
            if picture.why == "doubt":
                self.doubts.append(picture)
            elif picture.why == "mistake":
                if len(self.mistakes) < PICTURED:
                    self.mistakes.append(picture)
                if pair in of_pair and len(self.of_pair[pair]) < OF_A_PAIR:
                    self.of_pair[pair].append(picture)
            elif picture.prediction in sampled and len(self.of_class[picture.prediction]) < OF_A_CLASS:
                self.of_class[picture.prediction].append(picture)

    def all(self) -> dict[str, Picture]:
        """Each picture once, by image_id."""
        shown = chain(self.mistakes, self.doubts, *self.of_pair.values(), *self.of_class.values())
        return {picture.image_id: picture for picture in shown}


def draw(reports: Reports, summary: Summary, tables: dict[str, pa.Table], data: str | None) -> dict[str, Any]:
    """What the page's template shows beside the summary, pictures among it.

    data: where the images are (default: what the manifest says).
    """
    rows = {name: table.to_pylist() for name, table in tables.items() if name not in ("confusion", "summary")}
    wanted = Wanted(summary, tables, reports.pictures())
    kinds = {next((kind for kind in SIMULATIONS if device.startswith(kind)), None) for device in summary.devices}
    chosen, attempts = _chosen(reports.manifest), reports.manifest.attempts if reports.manifest else []
    most = chosen.get("max_errors")
    started = min((row["window_start"] for row in rows["throughput"]), default=None)
    times = f"{summary.run_id}, {started.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if started else summary.run_id
    return _pictures(wanted, thumbnails(reports.manifest, data, wanted.all().values())) | {
        "title": chosen.get("title") or _title(summary),
        "facts": [
            ("Data", summary.data),
            ("Labels", summary.labels_from),
            ("Model", summary.model),
            ("Device", "; ".join(summary.devices[:8])),
            ("Command", attempts[-1].get("command") if attempts else None),
            ("Run", times),
        ],
        "allowed": int(most * summary.images) if isinstance(most, float) else most,
        "simulations": [text for kind, text in SIMULATIONS.items() if kind in kinds],
        "many_classes": len(rows["per_class"]) > FEW_CLASSES,
        "classes": classes(summary, rows["per_class"], tables["confusion"]),
        "calibration": calibration(summary, rows["calibration"]),
        "throughput": throughput(rows["throughput"], rows["faults"]),
        "batch_times": batch_times(summary, rows["batch_times"]),
        "devices": time_spent(rows["meshes"], LISTED),
        "unread": reports.unread(),
        "configuration": _configuration(summary),
        "t": rows,
    }


def page(summary: Summary, drawn: dict[str, Any]) -> str:
    """The page around what was drawn; equal arguments give an equal page. All text in it is escaped."""
    return render("report.html", s=summary, phases=PHASES, listed=LISTED, **drawn)


def _chosen(manifest: Manifest | None) -> dict[str, Any]:
    """What the user chose, as far as the manifest tells."""
    return getattr(manifest, "chosen", {})


def _title(summary: Summary) -> str:
    if not summary.data or not summary.model:
        return f"Predictions of run {summary.run_id}"
    return f"{short_name(summary.data)} classified by {short_name(summary.model)}"


def _confused(confusion: pa.Table) -> tuple[Rows, int, int]:
    """The pairs of label and wrong answer with most images; images of all such pairs, and how many pairs."""
    labels, predictions, counts = (confusion[name].to_pylist() for name in ("label", "prediction", "count"))
    wrong = [i for i, (label, prediction) in enumerate(zip(labels, predictions, strict=True)) if label != prediction]
    rows = [confusion.slice(i, 1).to_pylist()[0] for i in wrong[:LISTED]]
    return rows, sum(counts[i] for i in wrong), len(wrong)


def _pictures(wanted: Wanted, jpegs: Mapping[str, bytes]) -> dict[str, Any]:
    """Those that could be read, by where they are shown, as long as there is room."""
    room = MOST_PICTURE_BYTES

    def shown(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
        nonlocal room
        found = []
        for each in pictures:
            jpeg = base64.b64encode(jpegs.get(each.image_id, b"")).decode()
            if jpeg and room >= len(jpeg):
                room -= len(jpeg)
                taken = f", taken for {each.predicted_name}" if each.label not in (None, each.prediction) else ""
                says = f"{each.label_name or each.predicted_name}{taken}: {each.image_id}, {each.probability:.1%} sure"
                found.append({**each._asdict(), "jpeg": f"data:image/jpeg;base64,{jpeg}", "says": shortened(says, 300)})
        return found

    mistakes, doubts = shown(wanted.mistakes), shown(wanted.doubts)
    pairs = [{**row, "pictures": shown(wanted.of_pair[row["label"], row["prediction"]])} for row in wanted.pairs]
    classes = [(row["name"], row["predicted"], shown(wanted.of_class[row["class"]])) for row in wanted.classes]
    return {
        "confused": {"images": wanted.wrong, "pairs": wanted.wrong_pairs, "rows": pairs},
        "pictures": {"mistakes": mistakes, "doubts": doubts, "classes": [each for each in classes if each[2]]},
    }


SHOWN_ABOVE = {"data", "labels", "model_digest"}
"""Settings that the page says elsewhere."""


def _configuration(summary: Summary) -> list[tuple[str, str]]:
    """What was set, and versions."""
    facts = [("checkpoint's digest (SHA-256)", summary.model_digest)]
    for name, value in json.loads(summary.config).items():
        if name not in SHOWN_ABOVE and value is not None:
            if isinstance(value, dict):
                value = ", ".join(f"{part.replace('_', ' ')} {some}" for part, some in value.items() if some not in (None, False))
            facts.append((name.replace("_", " "), str(value)))
    facts += [(f"{name} version", version) for name, version in json.loads(summary.versions).items()]
    return [(name, value) for name, value in facts if value]
