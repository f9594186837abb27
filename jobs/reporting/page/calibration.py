"""Whether the model is right as often as it is sure: a reliability diagram, and how many images are how sure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from jobs.reporting.page.colours import light
from jobs.reporting.page.markup import section, table
from jobs.reporting.page.plots import DASHED, WIDTH, svg
from jobs.reporting.schema import Summary


def calibration(summary: Summary, bins: pa.Table) -> str:
    if summary.ece is None:
        return ""
    drawn = svg(_drawing(bins), f"Reliability diagram: accuracy by confidence, and images by confidence; ECE {summary.ece:.4f}")
    images = pc.sum(bins["images"]).as_py()
    correct = pc.sum(bins["correct"]).as_py() / images
    sure = pc.sum(pc.multiply(bins["mean_confidence"], pc.cast(bins["images"], pa.float64()))).as_py() / images
    lean = "surer than it is right" if sure > correct else "less sure than it is right"
    note = (
        f"Expected calibration error (ECE) {summary.ece:.2%} over {images:,} labelled, classified images in {len(bins)} bins of "
        f"the top-1 probability. On average the model is {lean}: {sure:.2%} sure, {correct:.2%} right. On the dashed line it "
        "would be as right as it is sure."
    )
    rows = [
        (
            f"{row['confidence_from']:.1%} to {row['confidence_to']:.1%}",
            f"{row['images']:,}",
            f"{row['mean_confidence']:.1%}",
            f"{row['accuracy']:.1%}",
            f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}",
        )
        for row in bins.to_pylist()
        if row["images"]
    ]
    return section(
        "Calibration", note, drawn, table(["#Confidence", "#Images", "#Mean confidence", "#Accuracy", "#95% interval"], rows)
    )


def _drawing(bins: pa.Table) -> Figure:
    figure = Figure((WIDTH, 3.6), layout="constrained")
    reliability, counts = figure.subplots(1, 2, width_ratios=[1.15, 1])
    low, high = bins["confidence_from"].to_numpy(), bins["confidence_to"].to_numpy()
    there = bins.filter(pc.greater(bins["images"], 0))
    middle = (there["confidence_from"].to_numpy() + there["confidence_to"].to_numpy()) / 2
    sure, accuracy, least, most = (
        there[name].to_numpy() for name in ("mean_confidence", "accuracy", "accuracy_low", "accuracy_high")
    )
    width = (high - low)[0]
    reliability.bar(middle, accuracy, width, color=light("accent"), alpha=0.45, edgecolor=light("accent"), label="accuracy")
    interval = np.maximum(np.stack([accuracy - least, most - accuracy]), 0)
    reliability.errorbar(sure, accuracy, yerr=interval, fmt="o", markersize=4, color=light("ink"), linewidth=1, capsize=2.5)
    reliability.plot([0, 1], [0, 1], color=light("warm"), linewidth=1.2, linestyle=DASHED, label="calibrated")
    reliability.set_ylim(0, 1.02)
    reliability.set_ylabel("accuracy, 95% intervals")
    reliability.yaxis.set_major_formatter(PercentFormatter(1))
    counts.stairs(bins["images"].to_numpy(), np.append(low, high[-1]), fill=True, color=light("accent"), alpha=0.75)
    counts.set_ylabel("images")
    counts.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    counts.yaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in (reliability, counts):
        axes.set_xlim(0, 1)
        axes.set_xlabel("confidence (top-1 probability)")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    reliability.legend(loc="upper left", fontsize=9, frameon=False)
    return figure
