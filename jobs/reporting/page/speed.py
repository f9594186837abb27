"""What is drawn of a run's time: images per second, how long batches took, and what each device did."""

import base64
import io
from collections import Counter
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


class Activity:
    """Times of a run as seconds of activity: the pauses between its attempts are cut out.

    begin, end: of each row's window. resumes: where attempts after the first begin.
    """

    def __init__(self, table: Rows) -> None:
        self.begin = np.array([row["window_start"].timestamp() for row in table])
        self.end = self.begin + column(table, "window_seconds")
        self._of: dict[int, tuple[float, float, float]] = {}  # attempt -> its shift, and where it lies
        attempt, at = column(table, "attempt"), 0.0
        for each in np.unique(attempt):
            of = attempt == each
            shift, first = at - self.begin[of].min(), at
            self.begin[of] += shift
            self.end[of] += shift
            at = self.end[of].max()
            self._of[int(each)] = shift, first, at
        self.begin, self.end = self.begin.round(6), self.end.round(6)
        self.resumes = [first for _, first, _ in list(self._of.values())[1:]]

    def at(self, attempt: int, unix: float) -> float | None:
        """Where a moment lies; moments outside of an attempt lie at its nearest end. None: the attempt had no batches."""
        if attempt not in self._of:
            return None
        shift, first, last = self._of[attempt]
        return min(max(unix + shift, first), last)


def throughput(table: Rows, faults: Rows) -> dict[str, Any]:
    """The drawings and what is to be said of them; empty for a run too short to draw."""
    activity = Activity(table) if table else None
    if activity is None or len(np.unique(activity.begin)) < FEWEST_WINDOWS:
        return {}
    unit, name = time_unit(activity.end.max())
    begin, end = activity.begin / unit, activity.end / unit
    fps, mesh = column(table, "fps"), column(table, "mesh")
    meshes = sorted(set(mesh))
    x = Axis(0, end.max(), f"{name} of activity" + (", dashed: resumed (the pause is left out)" if activity.resumes else ""))
    drawings = [_system(x, begin, end, fps)]
    timeless = _mark(drawings[0], faults, activity, unit)
    if len(meshes) > 1:
        drawings.append(_heat_map(x, meshes, mesh, begin, end, fps))
    for drawing in drawings:
        for resume in activity.resumes:
            drawing.line("quiet", [resume / unit] * 2, [drawing.y.low, drawing.y.high], "dash")
    note = f"Images answered per second, end to end, in windows of {duration(float(np.median(column(table, 'window_seconds'))))}."
    if faults:
        note += " Marks: faults." + (f" {timeless:,} without a time are not marked." if timeless else "")
    return {"drawings": drawings, "note": note}


def _system(x: Axis, begin: np.ndarray, end: np.ndarray, fps: np.ndarray) -> Drawing:
    starts, window = np.unique(begin, return_inverse=True)
    ends, total = np.zeros(len(starts)), np.bincount(window, fps)
    ends[window] = end
    most = rate(total.max())
    y = Axis(0, total.max() * 1.08, "images/s, system", rate)
    drawing = Drawing(x, y, f"Throughput over time, {most} images/s at most")
    drawing.bars("accent", starts, ends, total)
    return drawing


def _mark(drawing: Drawing, faults: Rows, activity: Activity, unit: float) -> int:
    """Mark each fault at its time, once where several of a kind fall together; how many have none."""
    kinds: Counter[str] = Counter()
    drawn: dict[tuple[str, float], list[str]] = {}
    step = activity.end.max() / 300
    for fault in faults:
        at = activity.at(fault["attempt"], fault["at"].timestamp()) if fault["at"] else None
        if at is not None and fault["kind"] in MARKS:
            kinds[fault["kind"]] += 1
            drawn.setdefault((fault["kind"], round(at / step) * step), []).append(fault["where"])
    for (kind, at), where in drawn.items():
        drawing.mark(at / unit, drawing.y.high, *MARKS[kind], f"{kind}: {shortened(', '.join(where), 80)}")
    drawing.legend += [(*MARKS[kind], f"{kind}: {kinds[kind]:,}") for kind in MARKS if kinds[kind]]
    drawing.description += f"; {counted(len(faults), 'fault')}, {kinds.total():,} of them marked" if faults else ""
    return len(faults) - kinds.total()


def _heat_map(x: Axis, meshes: list[str], mesh: np.ndarray, begin: np.ndarray, end: np.ndarray, fps: np.ndarray) -> Drawing:
    """More opaque is faster: right on a light page and on a dark one."""
    columns = 400
    scale = columns / end.max()
    alpha = np.zeros((len(meshes), columns))
    for row, first, last, value in zip(np.searchsorted(meshes, mesh), begin * scale, end * scale, fps, strict=True):
        alpha[row, int(first) : max(int(first) + 1, round(last))] = value
    pixels = np.full((len(meshes), columns, 4), (51, 135, 209, 0), np.uint8)
    pixels[..., 3] = alpha / max(alpha.max(), 1e-9) * 255
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

    parts: the kinds of time that any device spent, as (label, colour).
    """
    rows = _by_mesh(meshes)
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
    headings = [f"#{label.capitalize()}" for _, label, _ in parts]
    return {"rows": waiting, "parts": parts, "signs": signs, "headings": headings, "caption": caption}


def _by_mesh(meshes: Rows) -> Rows:
    """Sums over attempts, but the longest compilation of each: when it was repeated is not recorded."""
    totals: dict[str, dict[str, Any]] = {}
    for row in sorted(meshes, key=lambda row: row["mesh"]):
        total = totals.setdefault(row["mesh"], {"mesh": row["mesh"], "compile_seconds": 0.0})
        total["compile_seconds"] = max(total["compile_seconds"], row["compile_seconds"])
        for name in ("images", "decode_cpu_seconds", *(part for part, _, _ in PARTS if part != "compile_seconds")):
            total[name] = total.get(name, 0) + row[name]
    return list(totals.values())
