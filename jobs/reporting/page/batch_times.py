"""How long batches kept their device."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from jobs.reporting.page.colours import light
from jobs.reporting.page.markup import section
from jobs.reporting.page.plots import DASHED, WIDTH, svg
from jobs.reporting.schema import Summary


def batch_times(summary: Summary, times: pa.Table) -> str:
    if not len(times):
        return section("Batch times", "No full batch ran.")
    low, high = times["from_ms"].to_numpy(), times["to_ms"].to_numpy()
    ratio = (high[0] / low[0]) ** max(1, int(np.ceil(np.log(high[-1] / low[0]) / np.log(high[0] / low[0]) / 60)))
    edges = low[0] * ratio ** np.arange(2 + int(np.log(high[-1] / low[0]) / np.log(ratio)))
    batches, _ = np.histogram(np.sqrt(low * high), bins=edges, weights=times["batches"].to_numpy())
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
    note = f"{summary.full_batches:,} full batches of {summary.batches:,}; p50 and p99 are within 0.5%."
    p50, p99 = (f"{value:,.2f} ms" for value in (summary.inference_p50_ms or 0, summary.inference_p99_ms or 0))
    return section("Batch times", note, svg(figure, f"Histogram of batch times; p50 {p50}, p99 {p99}"))
