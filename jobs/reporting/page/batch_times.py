"""How long batches kept their device."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from jobs.reporting.page.colours import light
from jobs.reporting.page.plots import DASHED, WIDTH, Rows, column, svg
from jobs.reporting.schema import Summary

MOST_BARS = 60


def batch_times(summary: Summary, times: Rows) -> Markup | None:
    """A histogram; None without a full batch."""
    if not times:
        return None
    low, high = column(times, "from_ms"), column(times, "to_ms")
    bucket = high[0] / low[0]
    ratio = bucket ** max(1, int(np.ceil(np.log(high[-1] / low[0]) / np.log(bucket) / MOST_BARS)))
    edges = low[0] * ratio ** np.arange(2 + int(np.log(high[-1] / low[0]) / np.log(ratio)))
    batches, _ = np.histogram(np.sqrt(low * high), bins=edges, weights=column(times, "batches"))
    figure = Figure((WIDTH, 2.7), layout="constrained")
    axes = figure.subplots()
    axes.stairs(batches, edges, fill=True, color=light("accent"), alpha=0.75)
    for name, value in (("p50", summary.inference_p50_ms), ("p99", summary.inference_p99_ms)):
        axes.axvline(value or 0, color=light("warm"), linewidth=1.2, linestyle=DASHED)
        at, colour = ("data", "axes fraction"), light("warm")
        axes.annotate(name, (value or 0, 1), (3, 2), xycoords=at, textcoords="offset points", color=colour, fontsize=9)
    axes.set_xlabel("milliseconds a full batch kept its device")
    axes.set_ylabel("batches")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if high[-1] > 5 * low[0]:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.xaxis.set_minor_formatter("")
    p50, p99 = (f"{value or 0:,.2f} ms" for value in (summary.inference_p50_ms, summary.inference_p99_ms))
    return svg(figure, f"Histogram of batch times; p50 {p50}, p99 {p99}")
