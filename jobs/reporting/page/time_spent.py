"""Where the time went: compiling, on the devices, waiting and what for, and meanwhile decoding."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from jobs.reporting.page.colours import light
from jobs.reporting.page.markup import clean, duration, section, table, time_unit
from jobs.reporting.page.plots import WIDTH, svg

DRAWN = 16  # more devices than this are drawn as one
LISTED = 15
PARTS = (
    ("compile_seconds", "compile", "slate"),
    ("wait_start_seconds", "wait: first images", "cyan"),
    ("busy_seconds", "busy", "accent"),
    ("wait_stream_seconds", "wait: images", "gold"),
    ("wait_faults_seconds", "wait: replaced", "red"),
    ("wait_tail_seconds", "wait: other devices", "purple"),
)
"""Columns of meshes.parquet, as they are drawn."""


def time_spent(meshes: pa.Table) -> str:
    if not len(meshes):
        return ""
    rows = _by_mesh(meshes)
    note = (
        "Of each device, from opening it to the last batch of all. Upload, compute and read-back of different batches overlap "
        "and cannot be told apart from outside a device: busy time has all three. A device waits for its first images, for "
        "images in mid-run, while it is replaced, and at the end for devices that still work. Decoding goes on meanwhile, on "
        "the cores of any host, so it is CPU time beside the devices' and not a part of it."
    )
    return section("Where the time went", note, _drawing(rows), _listing(rows))


def _by_mesh(meshes: pa.Table) -> list[dict]:
    """Sums over attempts, but the longest compilation of each: when it was repeated is not recorded."""
    summed = ["images", "decode_cpu_seconds", *(part for part, _, _ in PARTS if part != "compile_seconds")]
    sums = [(name, "sum") for name in summed]
    totals = meshes.group_by("mesh").aggregate([*sums, ("compile_seconds", "max")])
    totals = totals.rename_columns([name.removesuffix("_sum").removesuffix("_max") for name in totals.column_names])
    return totals.sort_by("mesh").to_pylist()


def _drawing(rows: list[dict]) -> str:
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


def _waited(row: dict) -> float:
    return sum(row[part] for part, label, _ in PARTS if label.startswith("wait"))


def _listing(rows: list[dict]) -> str:
    waiting = sorted(rows, key=lambda row: (-_waited(row), row["mesh"]))[:LISTED]
    caption = f"The {LISTED} of {len(rows):,} that waited longest" if len(rows) > LISTED else ""
    header = ["Device", "#Images", "#Compile", "#First images", "#Busy", "#Images late", "#Replaced", "#Other devices"]
    header += ["#Busy share", "#FPS, device alone", "#Decoding, CPU", "#Cores it could keep decoding"]
    return table(
        header,
        [
            (
                row["mesh"],
                f"{row['images']:,}",
                *(duration(row[part]) for part, _, _ in PARTS),
                f"{row['busy_seconds'] / max(row['busy_seconds'] + _waited(row), 1e-9):.0%}",
                f"{row['images'] / max(row['busy_seconds'], 1e-9):,.1f}",
                duration(row["decode_cpu_seconds"]),
                f"{row['decode_cpu_seconds'] / max(row['busy_seconds'], 1e-9):,.2f}",
            )
            for row in waiting
        ],
        caption,
    )
