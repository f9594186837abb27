"""Where the time went: compiling, on the devices, waiting and what for, and meanwhile decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from jobs.reporting.page.colours import light
from jobs.reporting.page.markup import clean, time_unit
from jobs.reporting.page.plots import WIDTH, Rows, svg

DRAWN = 16
"""More devices than this are drawn as one."""
PARTS = (
    ("compile_seconds", "compile", "slate"),
    ("wait_start_seconds", "wait: first images", "cyan"),
    ("busy_seconds", "busy", "accent"),
    ("wait_stream_seconds", "wait: images", "gold"),
    ("wait_faults_seconds", "wait: replaced", "red"),
    ("wait_tail_seconds", "wait: other devices", "purple"),
)
"""Columns of meshes.parquet, as they are drawn."""


def time_spent(meshes: Rows, most: int) -> dict[str, Any]:
    """A plot, and of at most so many devices, those that waited longest, the rows of the table; empty without a device."""
    if not meshes:
        return {}
    rows = _by_mesh(meshes)
    for row in rows:
        row["waited"] = sum(row[part] for part, label, _ in PARTS if label.startswith("wait"))
        row["busy_share"] = row["busy_seconds"] / max(row["busy_seconds"] + row["waited"], 1e-9)
        row["fps"] = row["images"] / max(row["busy_seconds"], 1e-9)
        row["cores"] = row["decode_cpu_seconds"] / max(row["busy_seconds"], 1e-9)
    waiting = sorted(rows, key=lambda row: (-row["waited"], row["mesh"]))[:most]
    caption = f"The {most} of {len(rows):,} that waited longest" if len(rows) > most else ""
    return {"plot": _drawing(rows), "rows": waiting, "caption": caption}


def _by_mesh(meshes: Rows) -> Rows:
    """Sums over attempts, but the longest compilation of each: when it was repeated is not recorded."""
    totals: dict[str, dict[str, Any]] = {}
    for row in sorted(meshes, key=lambda row: row["mesh"]):
        total = totals.setdefault(row["mesh"], {"mesh": row["mesh"], "compile_seconds": 0.0})
        total["compile_seconds"] = max(total["compile_seconds"], row["compile_seconds"])
        for name in ("images", "decode_cpu_seconds", *(part for part, _, _ in PARTS if part != "compile_seconds")):
            total[name] = total.get(name, 0) + row[name]
    return list(totals.values())


def _drawing(rows: Rows) -> Markup:
    if len(rows) > DRAWN:
        total = {name: sum(row[name] for row in rows) for name, value in rows[0].items() if not isinstance(value, str)}
        rows = [{"mesh": f"all {len(rows):,}", **total}]
    parts = [part for part in PARTS if any(row[part[0]] for row in rows)]
    figure = Figure((WIDTH, 1.4 + 0.34 * len(rows)), layout="constrained")
    devices, decoding = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    unit, name = time_unit(max(sum(row[part] for part, _, _ in parts) for row in rows))
    y, left = np.arange(len(rows)), np.zeros(len(rows))
    for part, label, colour in parts:
        values = np.array([row[part] for row in rows]) / unit
        devices.barh(y, values, left=left, height=0.66, color=light(colour), edgecolor=light("card"), linewidth=0.8, label=label)
        left += values
    cpu_unit, cpu_name = time_unit(max(row["decode_cpu_seconds"] for row in rows))
    decoding.barh(y, [row["decode_cpu_seconds"] / cpu_unit for row in rows], height=0.66, color=light("green"), label="decoding")
    devices.set_yticks(y, [clean(row["mesh"], 30) for row in rows])
    devices.set_ylim(len(rows) - 0.5, -0.5)
    devices.set_xlabel(f"{name} of the device")
    decoding.set_xlabel(f"{cpu_name} of CPU")
    for axes in (devices, decoding):
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=6 if axes is devices else 3)
        axes.legend(loc="lower left", ncols=3, fontsize=9, frameon=False, bbox_to_anchor=(-0.01, 0.98), borderpad=0.2)
    return svg(figure, "Time of each device spent compiling, busy and waiting for images, and CPU time of decoding")
