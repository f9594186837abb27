"""Accuracy by class, drawn with intervals, and the classes that the page lists."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jobs.reporting.page.colours import light
from jobs.reporting.page.markup import clean
from jobs.reporting.page.plots import DASHED, WIDTH, Rows, column, intervals, svg
from jobs.reporting.schema import Summary

NAMED = 30
"""More classes than this are drawn as a curve."""
LISTED = 2000
"""Classes of the table; more would make the page slow, and per_class.parquet has all."""


def classes(summary: Summary, per_class: Rows) -> dict[str, Any]:
    """Rows of the classes seen, the least accurate first, or without labels the most often predicted; and a plot of accuracy."""
    if summary.labelled:
        seen = sorted((row for row in per_class if row["images"]), key=lambda row: (row["accuracy"], row["class"]))
        plot = svg(_drawing(summary, seen), f"Top-1 accuracy of {len(seen):,} classes, least accurate first")
    else:
        seen = sorted((row for row in per_class if row["predicted"]), key=lambda row: (-row["predicted"], row["class"]))
        plot = None
    caption = f"The first {LISTED:,} of {len(seen):,} classes" if len(seen) > LISTED else f"All {len(seen):,} classes with images"
    return {"rows": seen[:LISTED], "plot": plot, "caption": caption}


def _drawing(summary: Summary, seen: Rows) -> Figure:
    accuracy, named = column(seen, "accuracy"), len(seen) <= NAMED
    figure = Figure((WIDTH, 0.9 + 0.26 * len(seen) if named else 3.2), layout="constrained")
    axes = figure.subplots()
    overall: dict[str, Any] = {"color": light("warm"), "linewidth": 1.2, "linestyle": DASHED}
    if named:
        places = range(len(seen))
        axes.barh(places, accuracy, color=light("accent"), alpha=0.75, height=0.7)
        axes.errorbar(accuracy, places, xerr=intervals(seen), fmt="none", color=light("ink"), linewidth=1, capsize=2.5)
        axes.set_yticks(places, [clean(row["name"], 40) for row in seen])
        axes.set_ylim(len(seen) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.axvline(summary.top1 or 0, **overall)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        return figure
    x, low, high = np.arange(1, len(seen) + 1), column(seen, "accuracy_low"), column(seen, "accuracy_high")
    axes.fill_between(x, low, high, color=light("accent"), alpha=0.2, linewidth=0, step="mid")
    axes.plot(x, accuracy, color=light("accent"), linewidth=1.6, drawstyle="steps-mid")
    axes.axhline(summary.top1 or 0, **overall)
    axes.set_xlim(1, len(seen))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"{len(seen):,} classes, least accurate first")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure
