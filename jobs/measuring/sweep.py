"""The same work at several batch sizes: rate over latency, as a table and drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from jobs.measuring.meshes import Measured, system_fps
from jobs.measuring.scaling_plot import KINDS, STYLE, drawn
from jobs.reporting.columns import described
from vit_actor.errors import UserError
from vit_actor.opening import DeviceRequest

IMAGES_PER_CHIP = (1, 2, 4, 8, 16)
CHIPS = {"simulated": 8, "cpu": 1}
"""Chips of a device that takes any batch; a simulated one stands for a T3000."""

SWEEP = described(
    {
        "images_per_chip": (pa.int32(), "images of a batch on each chip of a mesh; a CPU counts as a chip"),
        "batch_size": (pa.int32(), "images of a batch"),
        "fps": (pa.float64(), "images per second of all meshes together; null where the device refuses the size"),
        "inference_ms": (pa.float64(), "average wall time of an iteration"),
        "latency_p50_ms": (
            pa.float64(),
            "median time from when the device took a batch to its answer, others before it included",
        ),
        "latency_p99_ms": (pa.float64(), "99th percentile"),
        "too_short": (pa.string(), "why a figure of this length should not be quoted; null where it may be"),
        "refused": (pa.string(), "why the device does not take so many; null where it does"),
        "description": (pa.string(), "what ran; starts with 'simulated' where nothing did"),
    }
)


def sized(request: DeviceRequest, images: int) -> DeviceRequest:
    """A request for the same device with so many images a chip. Raises UserError where it takes no other number."""
    if request.device not in CHIPS:
        raise UserError(f"--sweep: --device {request.device} takes one number of images per chip; pass --device cpu or simulated")
    return replace(request, batch_size=images * CHIPS[request.device])


def latencies(measured: Measured) -> np.ndarray:
    """Seconds from when the device took each batch to its answer, float64 (iterations,)."""
    answered, found = measured.began_at, np.empty(len(measured.seconds))
    for i, (started, seconds) in enumerate(zip(measured.started_at, measured.seconds, strict=True)):
        answered = max(started, answered) + seconds
        found[i] = answered - started
    return found


def sweep_row(images: int, measured: list[Measured], too_short: str) -> dict[str, Any]:
    """A row of SWEEP."""
    milliseconds = np.concatenate([latencies(each) for each in measured]) * 1e3
    return {
        "images_per_chip": images,
        "batch_size": measured[0].batch_size,
        "fps": system_fps(measured),
        "inference_ms": np.concatenate([each.seconds for each in measured]).mean() * 1e3,
        "latency_p50_ms": np.percentile(milliseconds, 50),
        "latency_p99_ms": np.percentile(milliseconds, 99),
        "too_short": too_short or None,
        "description": measured[0].description,
    }


def sweep_lines(table: pa.Table) -> list[str]:
    """The rows of SWEEP for a terminal."""
    lines = [f"{'images per chip':>15}{'batch':>8}{'FPS':>12}{'inference':>13}{'latency p50':>14}{'p99':>9}"]
    for row in table.to_pylist():
        if row["refused"]:
            lines.append(f"{row['images_per_chip']:>15}  {row['refused']}")
            continue
        lines.append(
            f"{row['images_per_chip']:>15}{row['batch_size']:>8}{row['fps']:>12,.1f}{row['inference_ms']:>10.2f} ms"
            f"{row['latency_p50_ms']:>11.2f} ms{row['latency_p99_ms']:>9.2f}"
        )
    lines += [f"device: {text}" for text in table["description"].drop_null().to_pylist()[-1:]]
    return lines + [f"warning: too short to quote ({text})" for text in table["too_short"].drop_null().to_pylist()[-1:]]


def plot(table: pa.Table) -> bytes:
    """FPS over the median latency, with the 99th percentile as a bar, as SVG; each point says its images per chip."""
    rows = [row for row in table.to_pylist() if row["fps"]]
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.6), layout="constrained")
        axes = figure.subplots()
        median, last = ([row[f"latency_{name}_ms"] for row in rows] for name in ("p50", "p99"))
        fps = [row["fps"] for row in rows]
        axes.errorbar(median, fps, xerr=np.array([np.zeros(len(rows)), np.subtract(last, median)]), capsize=4, **KINDS["weak"])
        for row in rows:
            point = row["latency_p50_ms"], row["fps"]
            axes.annotate(f"{row['images_per_chip']}", point, xytext=(4, -14), textcoords="offset points")
        axes.set(xlabel="latency of a batch in ms: median, bar to p99", ylabel="images per second, whole system")
        axes.set_ylim(0, 1.1 * max(fps))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        simulated = "SIMULATED device, no measurement of hardware" if rows[0]["description"].startswith("simulated") else ""
        short = f"too short to quote: {rows[0]['too_short']}" if rows[0]["too_short"] else ""
        figure.suptitle("\n".join(filter(None, [simulated, "rate over latency, by images per chip", short])), fontsize=9)
        return drawn(figure)
