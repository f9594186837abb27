"""Whether the model is right as often as it is sure: a reliability diagram, and how many images are how sure."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from jobs.reporting.page.colours import light
from jobs.reporting.page.plots import DASHED, WIDTH, Rows, column, intervals, svg
from jobs.reporting.schema import Summary


def calibration(summary: Summary, bins: Rows) -> dict[str, Any]:
    """The plot, and over all `images`, the mean confidence `sure` and the share `right`; empty without labelled images."""
    if summary.ece is None:
        return {}
    seen = [each for each in bins if each["images"]]
    images = sum(each["images"] for each in seen)
    return {
        "plot": svg(
            _drawing(bins, seen), f"Reliability diagram: accuracy by confidence, and images by confidence; ECE {summary.ece:.4f}"
        ),
        "images": images,
        "sure": sum(each["mean_confidence"] * each["images"] for each in seen) / images,
        "right": sum(each["correct"] for each in seen) / images,
    }


def _drawing(bins: Rows, seen: Rows) -> Figure:
    figure = Figure((WIDTH, 3.6), layout="constrained")
    reliability, counts = figure.subplots(1, 2, width_ratios=[1.15, 1])
    edges = np.append(column(bins, "confidence_from"), bins[-1]["confidence_to"])
    middle = (column(seen, "confidence_from") + column(seen, "confidence_to")) / 2
    sure, accuracy = column(seen, "mean_confidence"), column(seen, "accuracy")
    colour = light("accent")
    reliability.bar(middle, accuracy, edges[1] - edges[0], color=colour, alpha=0.45, edgecolor=colour, label="accuracy")
    errors = {"yerr": intervals(seen), "fmt": "o", "markersize": 4, "linewidth": 1, "capsize": 2.5}
    reliability.errorbar(sure, accuracy, color=light("ink"), **errors)
    reliability.plot([0, 1], [0, 1], color=light("warm"), linewidth=1.2, linestyle=DASHED, label="calibrated")
    reliability.set_ylim(0, 1.02)
    reliability.set_ylabel("accuracy, 95% intervals")
    reliability.yaxis.set_major_formatter(PercentFormatter(1))
    counts.stairs(column(bins, "images"), edges, fill=True, color=colour, alpha=0.75)
    counts.set_ylabel("images")
    counts.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    counts.yaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in (reliability, counts):
        axes.set_xlim(0, 1)
        axes.set_xlabel("confidence (top-1 probability)")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    reliability.legend(loc="upper left", fontsize=9, frameon=False)
    return figure
