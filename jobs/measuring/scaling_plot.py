"""FPS and efficiency over the number of meshes, drawn."""

from __future__ import annotations

import io
from textwrap import fill
from typing import Any

import pyarrow as pa
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter, StrMethodFormatter

from jobs.measuring.scaling_table import shortcoming, verdict

STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#e2e8f0",
    "svg.fonttype": "none",  # text that can be searched
    "svg.hashsalt": "scaling",  # equal bytes for equal runs
    "text.parse_math": False,  # a path may hold $
}
KINDS: dict[str, dict[str, Any]] = {
    "weak": {"color": "#2f5fd0", "marker": "o", "markersize": 5},
    "strong": {"color": "#c2410c", "marker": "s", "markersize": 9, "markerfacecolor": "none", "linestyle": "--"},
}
"""Drawn so that both can be seen where they agree: dot in box, line between dashes."""

GREY = "#64748b"


def plot(table: pa.Table, form: str = "svg") -> bytes:
    """A table of schema SCALING as an image; form: svg or png."""
    with rc_context(STYLE):
        return drawn(_figure(table), form)


def drawn(figure: Figure, form: str = "svg") -> bytes:
    """A figure as an image, of equal bytes for equal figures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _figure(table: pa.Table) -> Figure:
    rows = table.to_pylist()
    sizes = sorted({row["meshes"] for row in rows})
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    fps, efficiency = figure.subplots(1, 2)
    fps.plot(sizes, [n * rows[0]["fps"] for n in sizes], linestyle=":", color=GREY, label="one mesh, times meshes")
    efficiency.axhline(1, linestyle=":", color=GREY)
    for kind, look in KINDS.items():
        mine = [row for row in rows if row["scaling"] == kind]
        spread = [[r["fps"] - r["fps_low"] for r in mine], [r["fps_high"] - r["fps"] for r in mine]]
        fps.errorbar(sizes, [r["fps"] for r in mine], yerr=spread, capsize=4, label=f"{kind} scaling", **look)
        efficiency.plot(sizes, [r["efficiency"] for r in mine], label=f"{kind} scaling", **look)
    many = sizes[-1] > 8
    fps.set(ylabel="images per second, whole system", yscale="log" if many else "linear")
    if not many:
        fps.set_ylim(0, 1.25 * max(row["fps_high"] for row in rows))  # room for the legend above a single size
    fps.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    efficiency.set(ylabel="efficiency: FPS of N / (N x FPS of 1)", ylim=(0, max(1.1, *(1.05 * r["efficiency"] for r in rows))))
    efficiency.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (fps, efficiency):
        axes.set(xlabel="meshes", xscale="log" if many else "linear")
        axes.set_xticks(sizes, [str(n) for n in sizes], fontsize=8 if many else None)
        axes.xaxis.set_minor_locator(NullLocator())
    fps.legend(loc="upper left", frameon=False)
    efficiency.legend(loc="lower left", frameon=False)
    simulated = rows[0]["description"].startswith("simulated")
    lines = [
        "SIMULATED devices, no measurement of hardware" if simulated else "",
        rows[0]["data"],
        verdict(table),
        shortcoming(table),
    ]
    figure.suptitle("\n".join(fill(line, 130) for line in lines if line), fontsize=9)
    return figure
