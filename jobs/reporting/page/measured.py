"""Pages of jobs that measure: the devices alone, and 1, 2, 4, ... meshes."""

from dataclasses import replace
from typing import Any

import numpy as np

from jobs.reporting.page.accuracy import PERCENT
from jobs.reporting.page.markup import render
from jobs.reporting.page.page import configuration, run_facts, simulations
from jobs.reporting.page.plots import Axis, Drawing, Rows, column
from jobs.reporting.page.speed import FEWEST_BATCHES, histogram
from jobs.running.manifest import Manifest
from jobs.running.words import counted, duration, milliseconds, rate, short_name

WHOLE, TENTH = "{:,}".format, "{:,.1f}".format
SYNTHETIC = (
    ("Mesh", "mesh", str), ("#Images", "images", WHOLE), ("#ms a batch", "inference_ms", milliseconds),
    ("#p50", "p50_ms", milliseconds), ("#p90", "p90_ms", milliseconds), ("#p99", "p99_ms", milliseconds), ("#FPS", "fps", TENTH),
    ("#Compile", "compile_seconds", duration), ("#Host loop", "host_share", PERCENT),
)  # fmt: skip
SWEEP = (
    ("Images", "mesh", str), ("#Batch", "batch_size", WHOLE), ("#FPS", "fps", TENTH),
    ("#Latency p50", "latency_p50_ms", milliseconds), ("#Latency p99", "latency_p99_ms", milliseconds),
)  # fmt: skip
SCALING = (
    ("Scaling", "scaling", str), ("#Meshes", "meshes", WHOLE), ("#Images", "images", WHOLE), ("#Time", "seconds", duration),
    ("#FPS", "fps", TENTH), ("#Slowest", "fps_low", TENTH), ("#Fastest", "fps_high", TENTH),
    ("#Efficiency", "efficiency", "{:.1%}".format), ("#Device busy", "device", PERCENT), ("Bound by", "bound", str),
)  # fmt: skip
"""The tables' headings, the columns of their Parquet files that they show, and how those are written."""


def synthetic_page(manifest: Manifest, meshes: Rows, seconds: np.ndarray) -> str:
    """meshes: rows of synthetic.parquet, the whole system's last. seconds: of every iteration, on any mesh."""
    system, count = meshes[-1], len(meshes) - 1
    cards = [
        ("FPS", TENTH(system["fps"]), f"{counted(system['images'], 'image')} on {counted(count, 'mesh')}"),
        ("Inference time", f"{milliseconds(system['inference_ms'])} ms", f"a batch of {system['batch_size']}"),
        ("Compile time", duration(system["compile_seconds"]), "the slowest mesh's" if count > 1 else ""),
    ]
    drawn = [histogram(1e3 * seconds, np.ones(len(seconds)), 1.01, system["p50_ms"], system["p99_ms"])]
    note = "Random images on every mesh, nothing before or after. Host loop: CPU time of the thread that drives the device."
    drawings = drawn if len(seconds) >= FEWEST_BATCHES else []
    return _page(manifest, SYNTHETIC, meshes[:1] if count == 1 else meshes, system["too_short"], cards, drawings, note)


def sweep_page(manifest: Manifest, sizes: Rows) -> str:
    """sizes: rows of sweep.parquet, one a number of images per chip."""
    latency, fps = column(sizes, "latency_p50_ms"), column(sizes, "fps")
    best = max(sizes, key=lambda row: row["fps"])
    cards = [("Most FPS", TENTH(best["fps"]), best["mesh"])]
    drawing = Drawing(
        Axis(0, 1.08 * max(latency), "median latency of a batch in ms", milliseconds),
        Axis(0, 1.12 * max(fps), "images/s, whole system", rate),
        "Rate over latency, a point for each number of images per chip",
    )
    for shape in ("line", "dots"):
        drawing.line("accent", latency, fps, shape)
    for row in sizes:
        number, says = row["mesh"].partition(" ")[0], f"{row['mesh']}: {TENTH(row['fps'])} FPS"
        drawing.mark(row["latency_p50_ms"], row["fps"], number, "ink", says)
    note = "Random images. A point's number is that of images per chip. Latency: from the hand-over of a batch to its answer."
    return _page(manifest, SWEEP, sizes, sizes[0]["too_short"], cards, [drawing] if len(sizes) > 1 else [], note)


def scaling_page(manifest: Manifest, table: Rows, verdict: str, warning: str) -> str:
    """table: rows of scaling.parquet. verdict, warning: what bounds the rate, and why not to quote it, as the terminal says."""
    sizes = sorted({row["meshes"] for row in table})
    cards = [
        (f"FPS, {counted(sizes[-1], 'mesh')}, {row['scaling']}", TENTH(row["fps"]), f"{row['efficiency']:.1%} efficient")
        for row in table
        if row["meshes"] == sizes[-1]
    ]
    drawings = [
        _over_meshes(table, "fps", Axis(0, 1, "images/s, whole system", rate), [n * table[0]["fps"] for n in sizes]),
        _over_meshes(table, "efficiency", Axis(0, 1, "efficiency: FPS of N / (N x FPS of 1)", PERCENT), [1.0] * len(sizes)),
    ]
    return _page(manifest, SCALING, table, warning, cards, drawings if len(sizes) > 1 else [], f"{verdict.capitalize()}.")


def _over_meshes(table: Rows, name: str, y: Axis, ideal: list[float]) -> Drawing:
    sizes = sorted({row["meshes"] for row in table})
    high = 1.08 * max(*ideal, *column(table, name))
    drawing = Drawing(Axis(0, sizes[-1], "meshes"), replace(y, high=high), f"{y.label}, of {sizes[0]} to {sizes[-1]} meshes")
    drawing.line("quiet", sizes, ideal, "dash")
    for kind, colour, how in (("weak", "accent", "line"), ("strong", "warm", "dash")):
        mine = [row for row in table if row["scaling"] == kind]
        for shape in (how, "dots"):
            drawing.line(colour, column(mine, "meshes"), column(mine, name), shape)
        drawing.legend.append(("●", colour, f"{kind} scaling"))
    return drawing


def _page(
    manifest: Manifest, columns: Any, table: Rows, warning: str | None, cards: list[Any], drawings: list[Drawing], note: str
) -> str:
    device = table[0]["description"]
    return render(
        "measured.html",
        title=f"{manifest.job.capitalize()}: {short_name(manifest.data)} through {short_name(manifest.model)}",
        facts=run_facts(manifest, data=manifest.data, model=manifest.model, device=device, run=manifest.run_id),
        simulations=simulations([device]),
        configuration=configuration(manifest.model_digest, manifest.settings, manifest.versions),
        headings=[heading for heading, _, _ in columns],
        rows=[[write(row[name]) for _, name, write in columns] for row in table],
        warning=warning,
        cards=cards,
        drawings=drawings,
        note=note,
    )
