"""What is drawn of accuracy: by class, as a matrix of labels and answers, and by how sure the model is."""

from typing import Any

import numpy as np
import pyarrow as pa

from jobs.reporting.page.plots import Axis, Drawing, Rows, column
from jobs.reporting.schema import Summary
from jobs.running.words import counted, rate

MATRIX = 50  # More classes than this are drawn as a curve, and not as a matrix
LISTED = 2000  # Classes of the table; more would make the page slow, and per_class.parquet has all
PERCENT = "{:.0%}".format


def classes(summary: Summary, per_class: Rows, confusion: pa.Table) -> dict[str, Any]:
    """Classes with images, the least accurate first, or without labels the most often predicted; and what is drawn of them."""
    answered = [row for row in per_class if row["predicted"] or row["images"]]
    if summary.labelled:
        seen = sorted((row for row in answered if row["images"]), key=lambda row: (row["accuracy"], row["class"]))
    else:
        seen = sorted(answered, key=lambda row: (-row["predicted"], row["class"]))
    caption = (f"The first {LISTED:,} of " if len(seen) > LISTED else "") + counted(len(seen), "class")
    drawn: dict[str, Any] = {"rows": seen[:LISTED], "all": len(seen), "caption": caption, "curve": None, "matrix": None}
    if summary.labelled and 1 < len(answered) <= MATRIX:
        counts = {(row["label"], row["prediction"]): row["count"] for row in confusion.to_pylist()}
        numbers = [row["class"] for row in answered]
        drawn["matrix"] = [
            (row["name"], row["images"], [counts.get((row["class"], number), 0) for number in numbers]) for row in answered
        ]
    elif summary.labelled and len(seen) > MATRIX:
        drawn["curve"] = _curve(summary, seen)
    return drawn


def _curve(summary: Summary, seen: Rows) -> Drawing:
    x = np.arange(1, len(seen) + 1)
    drawing = Drawing(
        Axis(1, len(seen), "classes, the least accurate first"),
        Axis(0, 1, "top-1 accuracy, with 95% intervals", PERCENT),
        f"Top-1 accuracy of {len(seen):,} classes, the least accurate first",
    )
    low, high = column(seen, "accuracy_low"), column(seen, "accuracy_high")
    drawing.line("accent", np.append(x, x[::-1]), np.append(low, high[::-1]), "area")
    drawing.line("accent", x, column(seen, "accuracy"))
    drawing.line("warm", [1, len(seen)], [summary.top1] * 2, "dash")
    return drawing


def calibration(summary: Summary, bins: Rows) -> dict[str, Any]:
    """The drawings, and over all `images`, the mean confidence `sure` and the share `right`; empty without labelled images."""
    if summary.ece is None:
        return {}
    seen = [each for each in bins if each["images"]]
    images = sum(each["images"] for each in seen)
    x = Axis(0, 1, "confidence (top-1 probability)", PERCENT)
    edges = np.append(column(bins, "confidence_from"), bins[-1]["confidence_to"])
    reliability = Drawing(x, Axis(0, 1, "accuracy, with 95% intervals", PERCENT),
                          f"Accuracy by confidence; expected calibration error {summary.ece:.4f}")  # fmt: skip
    reliability.bars("accent", edges[:-1], edges[1:], [each["accuracy"] or 0 for each in bins])
    reliability.line("warm", [0, 1], [0, 1], "dash")
    sure = column(seen, "mean_confidence")
    reliability.whiskers(sure, column(seen, "accuracy_low"), column(seen, "accuracy_high"))
    reliability.line("ink", sure, column(seen, "accuracy"), "dots")
    counts = Drawing(x, Axis(0, max(each["images"] for each in seen), "images", rate), "Images by confidence")
    counts.bars("accent", edges[:-1], edges[1:], column(bins, "images"))
    return {
        "drawings": [reliability, counts],
        "images": images,
        "sure": sum(each["mean_confidence"] * each["images"] for each in seen) / images,
        "right": sum(each["correct"] for each in seen) / images,
    }
