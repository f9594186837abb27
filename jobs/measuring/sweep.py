"""The same work with several numbers of images per chip: rate over latency."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from jobs.measuring.scaling_plot import KINDS, STYLE, drawn

IMAGES_PER_CHIP = (1, 2, 4, 8, 16)


def plot(table: pa.Table) -> bytes:
    """Rows of a sweep, as jobs.synthetic has them: FPS over the median latency, with the 99th percentile as a bar, as SVG."""
    rows = table.to_pylist()
    median, last = (np.array([row[f"latency_{percentile}_ms"] for row in rows]) for percentile in ("p50", "p99"))
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.errorbar(median, table["fps"].to_numpy(), xerr=[np.zeros(len(rows)), last - median], capsize=4, **KINDS["weak"])
        for row, x in zip(rows, median, strict=True):
            axes.annotate(row["mesh"], (x, row["fps"]), xytext=(4, -14), textcoords="offset points")
        axes.set_xlabel("latency of a batch in ms: median, bar to p99; points: images per chip")
        axes.set_ylabel("images per second, whole system")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        simulated = rows[0]["description"].startswith("simulated")
        title = [
            "SIMULATED devices, no measurement of hardware" if simulated else "",
            f"too short to quote: {rows[0]['too_short']}" if rows[0]["too_short"] else "",
        ]
        figure.suptitle("\n".join(filter(None, title)), fontsize=9)
        return drawn(figure)
