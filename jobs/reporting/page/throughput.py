"""Images per second over time, of the system and of each device, with the faults marked where they were noticed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from jobs.reporting.page.colours import SERIES, light
from jobs.reporting.page.markup import clean, duration, time_unit
from jobs.reporting.page.plots import DASHED, WIDTH, Rows, column, svg

DRAWN_MESHES = len(SERIES)  # more meshes than this are drawn as a heat map
NAMED_MESHES = 64
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
MARKS = {"restart": ("o", "warm"), "retry": ("^", "purple"), "device": ("X", "red"), "image": ("s", "gold")}
"""Kind of fault -> marker and colour. Lost hosts and killed drivers have no time."""


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
    """The plot and what is to be said of it."""
    if not table:
        return {"plot": "", "note": "No image reached a device."}
    activity = Activity(table)
    meshes = sorted({row["mesh"] for row in table})
    figure, timeless = _drawing(table, faults, activity, meshes)
    note = f"Images answered per second, end to end, in windows of {duration(float(np.median(column(table, 'window_seconds'))))}."
    if faults:
        note += " Marks: faults, above, and in the lower plot on the device that they befell."
    if timeless:
        note += f" {timeless:,} without a time are not marked."
    marked = f"{len(faults):,} faults, {len(faults) - timeless:,} of them marked"
    return {"plot": svg(figure, f"Throughput over time, system and {len(meshes):,} devices; {marked}"), "note": note}


def _drawing(table: Rows, faults: Rows, activity: Activity, meshes: list[str]) -> tuple[Figure, int]:
    """The system above and the devices below; and how many faults are not marked."""
    unit, name = time_unit(activity.end.max())
    begin, end = activity.begin / unit, activity.end / unit
    fps, mesh = column(table, "fps"), column(table, "mesh")
    many = len(meshes) > DRAWN_MESHES
    lower = 0 if len(meshes) == 1 else min(0.14 * len(meshes), 9) + 0.6 if many else 2.2
    figure = Figure((WIDTH, 2.9 + lower), layout="constrained")
    axes = figure.subplots(1 + bool(lower), 1, sharex=True, squeeze=False, height_ratios=[2.9, lower] if lower else [1])[:, 0]
    _system(axes[0], begin, end, fps)
    if many:
        _heat_map(figure, axes[1], meshes, mesh, begin, end, fps)
    elif lower:
        _devices(axes[1], meshes, mesh, begin, end, fps)
    for each in axes[:1] if many else axes:
        each.yaxis.set_major_formatter(_rates())
        each.set_ylim(bottom=0)
    for each in axes:
        for resume in activity.resumes:
            each.axvline(resume / unit, color=light("quiet"), linewidth=1, linestyle=DASHED)
    timeless = _mark(axes, faults, activity, unit, meshes, many=many)
    axes[-1].set_xlim(0, end.max())
    axes[-1].set_xlabel(f"{name} of activity" + (", dashed: resumed (the pause is left out)" if activity.resumes else ""))
    return figure, timeless


def _system(axes: Axes, begin: np.ndarray, end: np.ndarray, fps: np.ndarray) -> None:
    starts, window = np.unique(begin, return_inverse=True)
    ends = np.zeros(len(starts))
    ends[window] = end
    x, y = _steps(starts, ends, np.bincount(window, fps))
    axes.fill_between(x, y, color=light("accent"), alpha=0.15, linewidth=0)
    axes.plot(x, y, color=light("accent"), linewidth=1.6)
    axes.set_ylabel("images/s, system")


def _devices(axes: Axes, meshes: list[str], mesh: np.ndarray, begin: np.ndarray, end: np.ndarray, fps: np.ndarray) -> None:
    for i, (each, colour) in enumerate(zip(meshes, SERIES, strict=False)):
        of = mesh == each
        steps = _steps(begin[of], end[of], fps[of])
        axes.plot(*steps, color=light(colour), linewidth=1.4, linestyle=DASHES[i % len(DASHES)], label=clean(each))
    axes.set_ylabel("images/s, each device")
    axes.legend(loc="lower center", ncols=4, fontsize=8, frameon=False, bbox_to_anchor=(0.5, 1.0))


def _mark(axes: np.ndarray, faults: Rows, activity: Activity, unit: float, meshes: list[str], *, many: bool) -> int:
    """Draw each fault at its time, once where several of a kind fall together; how many have none."""
    kinds: Counter[str] = Counter()
    drawn: dict[tuple[str, str | None], set[float]] = {}
    timeless, step = 0, activity.end.max() / 300
    for fault in faults:
        at = activity.at(fault["attempt"], fault["at"].timestamp()) if fault["at"] else None
        if at is None or fault["kind"] not in MARKS:
            timeless += 1
            continue
        kinds[fault["kind"]] += 1
        for where in {None, fault["where"] if fault["where"] in meshes else None}:
            drawn.setdefault((fault["kind"], where), set()).add(round(at / step) * step / unit)
    for (kind, where), times in sorted(drawn.items(), key=lambda item: (list(MARKS).index(item[0][0]), item[0][1] or "")):
        marker, colour = MARKS[kind]
        style = {"marker": marker, "color": light(colour), "s": 34, "linewidth": 0, "zorder": 4, "clip_on": False}
        if where is None:
            label = f"{kind}: {kinds[kind]:,}"
            axes[0].scatter(sorted(times), [1.0] * len(times), transform=axes[0].get_xaxis_transform(), label=label, **style)
        elif many:
            axes[1].scatter(sorted(times), [meshes.index(where)] * len(times), **style)
        elif len(axes) > 1:
            axes[1].scatter(sorted(times), [0.04] * len(times), transform=axes[1].get_xaxis_transform(), **style)
    if kinds:
        axes[0].legend(loc="lower right", ncols=4, fontsize=9, frameon=False, bbox_to_anchor=(1.0, 1.03))
    return timeless


def _steps(begin: np.ndarray, end: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A step line through windows in order, at zero where there is none."""
    order = np.argsort(begin)
    begin, end, value = begin[order], end[order], value[order]
    zero = np.zeros(len(value))
    x = np.stack([begin, begin, end, end], axis=1).ravel()
    y = np.stack([zero, value, value, zero], axis=1).ravel()
    inner = np.flatnonzero(np.isclose(begin[1:], end[:-1]))  # no drop to zero where one window follows another
    keep = np.ones(len(x), dtype=bool)
    keep[4 * inner + 3] = keep[4 * inner + 4] = False
    return x[keep], y[keep]


def _heat_map(
    figure: Figure, axes: Axes, meshes: list[str], mesh: np.ndarray, begin: np.ndarray, end: np.ndarray, fps: np.ndarray
) -> None:
    """More opaque is faster: right on a light page and on a dark one."""
    columns = 400
    scale = columns / end.max()
    image = np.zeros((len(meshes), columns))
    for row, first, last, value in zip(np.searchsorted(meshes, mesh), begin * scale, end * scale, fps, strict=True):
        image[row, int(first) : max(int(first) + 1, round(last))] = value
    extent = (0, float(end.max()), len(meshes) - 0.5, -0.5)
    axes.grid(visible=False)
    colours = LinearSegmentedColormap.from_list("opacity", [(0.2, 0.53, 0.82, 0.0), (0.2, 0.53, 0.82, 1.0)])
    drawn = axes.imshow(image, aspect="auto", cmap=colours, vmin=0, extent=extent, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="images/s, each device", format=_rates(), pad=0.01)
    if len(meshes) <= NAMED_MESHES:
        axes.set_yticks(range(len(meshes)), [clean(each) for each in meshes], fontsize=7)
    else:
        axes.set_ylabel(f"{len(meshes):,} devices, by name")


def _rates() -> FuncFormatter:
    """10k for ten thousand, but 0.8 and not 800m for less than one, as in a simulator."""
    thousands = EngFormatter(sep="")
    return FuncFormatter(lambda rate, _: thousands(rate) if abs(rate) >= 1000 else f"{rate:g}")
