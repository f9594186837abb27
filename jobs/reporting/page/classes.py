"""Accuracy by class: drawn with intervals, and every class in a table to sort and search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jobs.reporting.page.colours import light
from jobs.reporting.page.markup import clean, listing, section, table
from jobs.reporting.page.plots import DASHED, WIDTH, svg
from jobs.reporting.schema import Summary

NAMED = 30  # more classes than this are drawn as a curve
LISTED = 2000  # classes of the table; more would make the page slow, and per_class.parquet has all


def classes(summary: Summary, per_class: pa.Table) -> str:
    if not summary.labelled:
        most = per_class.filter(pc.greater(per_class["predicted"], 0))
        most = most.sort_by([("predicted", "descending"), ("class", "ascending")])
        predicted = [(f"{row['class']}", row["name"], f"{row['predicted']:,}") for row in most.slice(0, LISTED).to_pylist()]
        every = _all(["#Class", "Name", "#Images"], predicted, len(most), "most often predicted first")
        return section("Predicted classes", "The images have no labels, so there is no accuracy.", every)
    seen = per_class.filter(pc.greater(per_class["images"], 0)).sort_by([("accuracy", "ascending"), ("class", "ascending")])
    note = f"Top-1 with 95% intervals, least accurate first; dashed: all images together, {summary.top1:.2%}."
    rows: list[tuple[str, ...]] = [
        (
            f"{row['class']}",
            row["name"],
            f"{row['accuracy']:.1%}",
            f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}",
            f"{row['top5_correct'] / row['images']:.1%}",
            f"{row['images']:,}",
            f"{row['errors']:,}",
            f"{row['predicted']:,}",
            row["confused_with_name"] or "",
            f"{row['confused_images']:,}" if row["confused_images"] else "",
        )
        for row in seen.slice(0, LISTED).to_pylist()
    ]
    header = ["#Class", "Name", "#Top-1", "#95% interval", "#Top-5", "#Images", "#Errors", "#Predicted", "Most confused with"]
    header.append("#How often")
    drawn = svg(_drawing(summary, seen), f"Top-1 accuracy of {len(seen):,} classes, least accurate first")
    return section("Accuracy by class", note, drawn, _all(header, rows, len(seen), "least accurate first"))


def _all(header: list[str], rows: Sequence[tuple[str, ...]], classes: int, order: str) -> str:
    some = f"The first {len(rows):,} of {classes:,} classes" if classes > len(rows) else f"All {classes:,} classes with images"
    return listing("All classes", table(header, rows, f"{some}, {order}", kind="sortable"))


def _drawing(summary: Summary, seen: pa.Table) -> Figure:
    accuracy, low, high = (seen[name].to_numpy() for name in ("accuracy", "accuracy_low", "accuracy_high"))
    if len(seen) <= NAMED:
        figure = Figure((WIDTH, 0.9 + 0.26 * len(seen)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(seen)), accuracy, color=light("accent"), alpha=0.75, height=0.7)
        interval = np.maximum(np.stack([accuracy - low, high - accuracy]), 0)
        axes.errorbar(accuracy, range(len(seen)), xerr=interval, fmt="none", color=light("ink"), linewidth=1, capsize=2.5)
        axes.set_yticks(range(len(seen)), [clean(name, 40) for name in seen["name"].to_pylist()])
        axes.set_ylim(len(seen) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.axvline(summary.top1 or 0, color=light("warm"), linewidth=1.2, linestyle=DASHED)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        return figure
    figure = Figure((WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    x = np.arange(1, len(seen) + 1)
    axes.fill_between(x, low, high, color=light("accent"), alpha=0.2, linewidth=0, step="mid")
    axes.plot(x, accuracy, color=light("accent"), linewidth=1.6, drawstyle="steps-mid")
    axes.axhline(summary.top1 or 0, color=light("warm"), linewidth=1.2, linestyle=DASHED)
    axes.set_xlim(1, len(seen))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"{len(seen):,} classes, least accurate first")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure
