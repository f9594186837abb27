"""What is drawn of a run's time: images per second, how long batches took, and what each device did."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from jobs.reporting.page.plots import Axis, Drawing, Rows, column
from jobs.reporting.schema import Summary
from jobs.running.words import counted, duration, rate, shortened, time_unit

NAMED_MESHES = 64
FEWEST_WINDOWS, FEWEST_BATCHES = 3, 10  # Fewer are not worth a drawing
MOST_BARS = 60
MARKS = {
    "restart": ("●", "warm"),
    "retry": ("▲", "purple"),
    "device": ("✖", "red"),
    "image": ("■", "gold"),
    "host": ("◆", "slate"),
}
"""Kind of fault -> sign and colour. Lost hosts and killed drivers have no time."""
PARTS = (
    ("compile_seconds", "compile", "slate"),
    ("wait_start_seconds", "wait: first images", "cyan"),
    ("busy_seconds", "busy", "accent"),
    ("wait_stream_seconds", "wait: images", "gold"),
    ("wait_faults_seconds", "wait: replaced", "red"),
    ("wait_tail_seconds", "wait: other devices", "purple"),
)
"""Columns of meshes.parquet, as they are drawn."""


def throughput(table: Rows, faults: Rows) -> dict[str, Any]:
    """The drawings and what is to be said of them; empty for a run too short to draw. Pauses between attempts are cut out."""
    attempt, fps, mesh, lasts = (column(table, name) for name in ("attempt", "fps", "mesh", "window_seconds"))
    begin = np.array([row["window_start"].timestamp() for row in table])
    end = begin + lasts
    active, spans = 0.0, {}  # of each attempt its first and last moment in Unix seconds, and where it begins without pauses
    for each in np.unique(attempt):
        of = attempt == each
        first, last = begin[of].min(), end[of].max()
        spans[each] = first, last, active
        begin[of] += active - first
        end[of] += active - first
        active += last - first
    begin, end = begin.round(6), end.round(6)
    if len(np.unique(begin)) < FEWEST_WINDOWS:
        return {}
    unit, name = time_unit(end.max())
    resumes = [since / unit for _, _, since in spans.values() if since]
    x = Axis(0, end.max() / unit, f"{name} of activity" + (", dashed: resumed (the pause is left out)" if resumes else ""))
    drawings = [_system(x, begin / unit, end / unit, fps)]
    step = end.max() / 300
    marks: dict[tuple[str, float], list[str]] = {}  # (kind, when) -> where: one mark for several of a kind that fall together
    for fault in faults:
        if fault["at"] and fault["kind"] in MARKS and fault["attempt"] in spans:
            first, last, since = spans[fault["attempt"]]
            at = min(max(fault["at"].timestamp(), first), last) - first + since
            marks.setdefault((fault["kind"], round(at / step) * step / unit), []).append(fault["where"])
    timeless = len(faults) - _mark(drawings[0], marks, len(faults))
    if len(set(mesh)) > 1:
        drawings.append(_heat_map(x, mesh, begin / unit, end / unit, fps))
    for drawing in drawings:
        for resume in resumes:
            drawing.line("quiet", [resume] * 2, [drawing.y.low, drawing.y.high], "dash")
    note = f"Images answered per second, end to end, in windows of {duration(float(np.median(lasts)))}."
    if faults:
        note += " Marks: faults." + (f" {timeless:,} without a time are not marked." if timeless else "")
    return {"drawings": drawings, "note": note}


def _system(x: Axis, begin: np.ndarray, end: np.ndarray, fps: np.ndarray) -> Drawing:
    starts, first, window = np.unique(begin, return_index=True, return_inverse=True)
    total = np.bincount(window, fps)
    y = Axis(0, total.max() * 1.08, "images/s, system", rate)
    drawing = Drawing(x, y, f"Throughput over time, {rate(total.max())} images/s at most")
    drawing.bars("accent", starts, end[first], total)
    return drawing


def _mark(drawing: Drawing, marks: dict[tuple[str, float], list[str]], faults: int) -> int:
    """Mark faults at their times; how many."""
    for (kind, at), where in marks.items():
        drawing.mark(at, drawing.y.high, *MARKS[kind], f"{kind}: {shortened(', '.join(where), 80)}")
    kinds = {kind: sum(len(where) for (other, _), where in marks.items() if other == kind) for kind in MARKS}
    drawing.legend += [(*MARKS[kind], f"{kind}: {number:,}") for kind, number in kinds.items() if number]
    marked = sum(kinds.values())
    drawing.description += f"; {counted(faults, 'fault')}, {marked:,} of them marked" if faults else ""
    return marked


def _heat_map(x: Axis, mesh: np.ndarray, begin: np.ndarray, end: np.ndarray, fps: np.ndarray) -> Drawing:
    """More opaque is faster: right on a light page and on a dark one."""
    meshes, place = np.unique(mesh, return_inverse=True)
    scale = 400 / end.max()
    pixels = np.full((len(meshes), 400, 4), (51, 135, 209, 0), np.uint8)
    for row, first, last, value in zip(place, begin * scale, end * scale, fps / fps.max(), strict=True):
        pixels[row, int(first) : max(int(first) + 1, round(last)), 3] = value * 255
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")
    names = tuple(shortened(each, 24) for each in meshes[::-1]) if len(meshes) <= NAMED_MESHES else ()
    label = f"{len(meshes):,} devices, by name from above; the most opaque has {rate(fps.max())} images/s"
    drawing = Drawing(x, Axis(-0.5, len(meshes) - 0.5, label, lambda _: "", names=names), label, min(24 + 14 * len(meshes), 900))
    drawing.image = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    return drawing


def batch_times(summary: Summary, times: Rows) -> Drawing | None:
    """A histogram; None for too few batches."""
    if summary.full_batches < FEWEST_BATCHES:
        return None
    low, high, batches = (column(times, name) for name in ("from_ms", "to_ms", "batches"))
    return histogram(np.sqrt(low * high), batches, high[0] / low[0], summary.inference_p50_ms or 0, summary.inference_p99_ms or 0)


def histogram(times: np.ndarray, batches: np.ndarray, least: float, p50: float, p99: float) -> Drawing:
    """How many batches took so many milliseconds, in at most MOST_BARS bars whose ends have at least the ratio `least`."""
    low, high = times.min() / least**0.5, times.max() * least**0.5
    ratio = least ** max(1, int(np.ceil(np.log(high / low) / np.log(least) / MOST_BARS)))
    edges = low * ratio ** np.arange(2 + int(np.log(high / low) / np.log(ratio)))
    counts, _ = np.histogram(times, bins=edges, weights=batches)
    x = Axis(edges[0], edges[-1], "milliseconds a full batch kept its device", "{:,.6g}".format, log=bool(high > 5 * low))
    y = Axis(0, counts.max() * 1.12, "batches", rate)
    drawing = Drawing(x, y, f"Histogram of batch times; p50 {p50:,.2f} ms, p99 {p99:,.2f} ms")
    drawing.bars("accent", edges[:-1], edges[1:], counts)
    for name, value in (("p50", p50), ("p99", p99)):
        drawing.line("warm", [value] * 2, [0, counts.max() * 1.05], "dash")
        drawing.mark(value, y.high, name, "warm", f"{value:,.2f} ms")
    return drawing


def time_spent(meshes: Rows, most: int) -> dict[str, Any]:
    """Of at most so many devices, those that waited longest: their rows, each with its parts as percents; empty without a device.

    Sums over attempts, but of compilation the longest: when it was repeated is not recorded.
    parts: the kinds of time that any device spent, as (column, label, colour).
    """
    totals: dict[str, dict[str, Any]] = {}
    for mesh in sorted(meshes, key=lambda mesh: mesh["mesh"]):
        row = totals.setdefault(mesh["mesh"], dict.fromkeys(mesh, 0) | {"mesh": mesh["mesh"]})
        row["compile_seconds"] = max(row["compile_seconds"], mesh["compile_seconds"])
        for name in ("images", "decode_cpu_seconds", *(part for part, _, _ in PARTS if part != "compile_seconds")):
            row[name] += mesh[name]
    rows = list(totals.values())
    for row in rows:
        row["waited"] = sum(row[part] for part, label, _ in PARTS if label.startswith("wait"))
        row["busy_share"] = row["busy_seconds"] / max(row["busy_seconds"] + row["waited"], 1e-9)
        row["fps"] = row["images"] / max(row["busy_seconds"], 1e-9)
        row["cores"] = row["decode_cpu_seconds"] / max(row["busy_seconds"], 1e-9)
    longest = max((sum(row[part] for part, _, _ in PARTS) for row in rows), default=0)
    if not longest:
        return {}
    parts = [part for part in PARTS if any(row[part[0]] >= 0.001 * longest for row in rows)]
    for row in rows:
        row["parts"] = [(f"{label} {duration(row[part])}", colour, 100 * row[part] / longest) for part, label, colour in parts]
    waiting = sorted(rows, key=lambda row: (-row["waited"], row["mesh"]))[:most]
    caption = f"The {most} of {len(rows):,} that waited longest" if len(rows) > most else "Time of each device"
    signs = [("■", colour, label) for _, label, colour in parts]
    return {"rows": waiting, "parts": parts, "signs": signs, "caption": caption}
