"""One self-contained HTML page from the report's tables: headline numbers, plots and what went wrong."""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Iterable
from html import escape
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from jobs.report_tables import Summary

ACCENT, WARM, GREY = "#2f5fd0", "#c2410c", "#64748b"
PALETTE = ["#2f5fd0", "#c2410c", "#0f8a5f", "#8b3fc7", "#b7791f", "#0e7c9b", "#be2f6b", "#5b6472"]
NAMED_CLASSES = 30  # more classes than this are drawn as a curve
DRAWN_MESHES = len(PALETTE)  # more meshes than this are drawn as a heat map
NAMED_MESHES = 64
LISTED = 15  # rows of the page's tables; the Parquet files hold all

PLOTS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#94a3b8",
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#e2e8f0",
    "svg.fonttype": "none",
    "svg.hashsalt": "loudbox-vit",  # else every drawing would name its parts anew
    "text.parse_math": False,  # a class may be called $5
    "xtick.color": GREY,
    "ytick.color": GREY,
}

STYLE = """
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1e293b; background: #f5f7fa; margin: 0 }
main { max-width: 1080px; margin: 0 auto; padding: 28px 24px 60px }
h1 { font-size: 25px; line-height: 1.25; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 17px; margin: 0 0 2px }
p { margin: 4px 0 } .quiet { color: #64748b; font-size: 13.5px; overflow-wrap: anywhere }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 12px; margin: 20px 0 }
.card, section { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 14px 18px }
.card b { display: block; font-size: 27px; line-height: 1.3; font-weight: 650; font-variant-numeric: tabular-nums }
.card span { color: #64748b; font-size: 13px; font-weight: 600; letter-spacing: .02em }
.card p { color: #64748b; font-size: 13px; line-height: 1.4; margin: 2px 0 0 }
section { margin: 14px 0; overflow-x: auto }
.notice { border-radius: 10px; padding: 12px 18px; margin: 16px 0 }
.notice { background: #fff7ed; border: 1px solid #fdba74; color: #7c2d12 }
.simulated { background: #b91c1c; border-color: #b91c1c; color: #fff }
.simulated b { letter-spacing: .12em }
img { display: block; width: 100%; height: auto; margin-top: 8px }
table { border-collapse: collapse; width: 100%; margin-top: 8px; font-size: 14px }
th { text-align: left; color: #64748b; font-weight: 600; font-size: 13px }
th, td { border-bottom: 1px solid #e8edf3; padding: 4px 24px 4px 0 }
th:last-child, td:last-child { padding-right: 0 }
td { vertical-align: top; overflow-wrap: anywhere }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td:first-child:not(.number) { min-width: 130px }
"""


def page(summary: Summary, tables: dict[str, pa.Table]) -> str:
    """The page, complete with its plots as images; equal tables give an equal page. All text in it is escaped."""
    title = f"{summary.model or 'Predictions'} on {summary.data or summary.run_id}"
    with matplotlib.rc_context(PLOTS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the viewer's fonts draw what matplotlib's cannot measure
        sections = _sections(summary, tables)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_text(title)}</title>'
    facts = [summary.job, f"run {summary.run_id}", _started(tables["throughput"]), "; ".join(summary.devices[:8])]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head>{head}<style>{STYLE}</style></head><body><main>',
            f"<h1>{_text(title)}</h1>",
            f'<p class="quiet">{_text(" · ".join(fact for fact in facts if fact))}</p>',
            *sections,
            "</main></body></html>\n",
        ]
    )


def _sections(summary: Summary, tables: dict[str, pa.Table]) -> list[str]:
    return [
        *_notices(summary),
        _cards(summary),
        _throughput(tables["throughput"]),
        _classes(summary, tables["per_class"]),
        _confused(tables["confusion"]) if summary.labelled else "",
        _batch_times(summary, tables["batch_times"]),
        _errors(summary, tables["errors"]),
        _faults(summary, tables["faults"]),
        _config(summary),
    ]


def _notices(summary: Summary) -> list[str]:
    notices = []
    if summary.simulated:
        notices.append(
            '<div class="notice simulated"><b>SIMULATED</b> — no accelerator ran. Times and throughput come from a model '
            "of the device; accuracy says nothing about a checkpoint.</div>"
        )
    if summary.planned is not None and summary.images < summary.planned:
        notices.append(
            f'<div class="notice"><b>Incomplete</b> — {summary.images:,} of {summary.planned:,} images so far. '
            "Accuracy is over those.</div>"
        )
    return notices


def _cards(summary: Summary) -> str:
    cards = []
    if summary.top1 is not None:
        for name, share, low, high, right in (
            ("Top-1 accuracy", summary.top1, summary.top1_low, summary.top1_high, summary.correct),
            ("Top-5 accuracy", summary.top5, summary.top5_low, summary.top5_high, summary.top5_correct),
        ):
            cards.append((name, f"{share:.2%}", f"{low:.2%} to {high:.2%} (95%)", f"{right:,} of {summary.labelled:,} images"))
    if summary.system_fps is not None:
        cards.append(
            (
                "Throughput, system",
                f"{summary.system_fps:,.0f} FPS" if summary.system_fps >= 100 else f"{summary.system_fps:,.1f} FPS",
                f"end to end, first batch to last in {_duration(summary.active_seconds)}",
                f"{summary.meshes:,} device{'s' if summary.meshes != 1 else ''}, {summary.device_busy:.0%} busy; "
                f"one alone {summary.device_fps:,.1f} FPS",
            )
        )
    if summary.inference_ms is not None:
        cards.append(
            (
                "Inference time",
                f"{_milliseconds(summary.inference_ms)} ms",
                f"mean of a batch of {summary.batch_size or 'full size'}, {summary.full_batches:,} full batches",
                f"p50 {_milliseconds(summary.inference_p50_ms)}, p99 {_milliseconds(summary.inference_p99_ms)} ms",
            )
        )
    lost = f"{summary.errors:,} with an error ({summary.errors / summary.images:.2%})" if summary.errors else "none with an error"
    cards.append(("Images", f"{summary.images:,}", lost, f"{summary.labelled:,} labelled"))
    if summary.compile_seconds is not None:
        resumed = f"run in {summary.attempts} attempts" if summary.attempts > 1 else ""
        cards.append(("Compile time", f"{summary.compile_seconds:,.2f} s", "initial, the slowest device's", resumed))
    return f'<div class="cards">{"".join(_card(*card) for card in cards)}</div>'


def _card(name: str, value: str, *notes: str) -> str:
    lines = "".join(f"<p>{_text(note)}</p>" for note in notes if note)
    return f'<div class="card"><span>{_text(name)}</span><b>{_text(value)}</b>{lines}</div>'


def _throughput(table: pa.Table) -> str:
    if not len(table):
        return _section("Throughput", "No image reached a device.")
    begin, end, resumes = _active_time(table)
    longest = end.max()
    unit, name = next(
        (u, n) for u, n, limit in ((1, "seconds", 300), (60, "minutes", 18000), (3600, "hours", np.inf)) if longest < limit
    )
    begin, end, resumes = begin / unit, end / unit, resumes / unit
    fps, mesh = table["fps"].to_numpy(), np.array(table["mesh"].to_pylist())
    meshes = sorted(set(mesh.tolist()))
    many = len(meshes) > DRAWN_MESHES
    lower = 0 if len(meshes) == 1 else min(0.14 * len(meshes), 9) + 0.6 if many else 2.2
    figure = Figure((10.4, 2.7 + lower), layout="constrained")
    axes = figure.subplots(1 + bool(lower), 1, sharex=True, squeeze=False, height_ratios=[2.7, lower] if lower else [1])[:, 0]

    starts, window = np.unique(begin, return_inverse=True)
    ends = np.zeros(len(starts))
    ends[window] = end
    x, y = _steps(starts, ends, np.bincount(window, fps))
    axes[0].fill_between(x, y, color=ACCENT, alpha=0.15, linewidth=0)
    axes[0].plot(x, y, color=ACCENT, linewidth=1.6)
    axes[0].set_ylabel("images/s, system")
    if many:
        _heat_map(figure, axes[1], meshes, mesh, begin, end, fps)
    elif lower:
        for each, colour in zip(meshes, PALETTE, strict=False):
            of = mesh == each
            axes[1].plot(*_steps(begin[of], end[of], fps[of]), color=colour, linewidth=1.4, label=_clean(each))
        axes[1].set_ylabel("images/s, each device")
        axes[1].legend(loc="lower center", ncols=4, fontsize=8, frameon=False, bbox_to_anchor=(0.5, 1.0))
    for each in axes[:1] if many else axes:
        each.yaxis.set_major_formatter(EngFormatter(sep=""))
        each.set_ylim(bottom=0)
    for each in axes:
        for resume in resumes:
            each.axvline(resume, color=WARM, linewidth=1, linestyle=(0, (4, 3)))
    axes[-1].set_xlim(0, end.max())
    axes[-1].set_xlabel(f"{name} of activity" + (", dashed: resumed (the pause is left out)" if len(resumes) else ""))
    windows = table["window_seconds"].to_numpy()
    note = f"Images answered per second, end to end, in windows of {_duration(float(np.median(windows)))}."
    return _section("Throughput", note, _image(figure, "Throughput over time, system and per device"), _meshes(table))


def _active_time(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Begin and end of each row's window in seconds of activity, with pauses between attempts cut, and where those were."""
    begin = table["window_start"].cast(pa.int64()).to_numpy() / 1e6
    end = begin + table["window_seconds"].to_numpy()
    attempt = table["attempt"].to_numpy()
    at, resumes = 0.0, []
    for each in np.unique(attempt):
        of = attempt == each
        shift = at - begin[of].min()
        resumes.append(at)
        begin[of] += shift
        end[of] += shift
        at = end[of].max()
    return begin.round(6), end.round(6), np.array(resumes[1:])


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
    columns = 400
    scale = columns / end.max()
    image = np.zeros((len(meshes), columns))
    for row, first, last, value in zip(np.searchsorted(meshes, mesh), begin * scale, end * scale, fps, strict=True):
        image[row, int(first) : max(int(first) + 1, round(last))] = value
    extent = (0, float(end.max()), len(meshes) - 0.5, -0.5)
    axes.grid(visible=False)
    drawn = axes.imshow(image, aspect="auto", cmap="Blues", vmin=0, extent=extent, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="images/s, each device", format=EngFormatter(sep=""), pad=0.01)
    if len(meshes) <= NAMED_MESHES:
        axes.set_yticks(range(len(meshes)), [_clean(each) for each in meshes], fontsize=7)
    else:
        axes.set_ylabel(f"{len(meshes):,} devices, by name")


def _meshes(table: pa.Table) -> str:
    totals = table.group_by("mesh").aggregate(
        [("images", "sum"), ("batches", "sum"), ("busy_seconds", "sum"), ("compile_seconds", "max")]
    )
    totals = totals.append_column("fps", pc.divide(pc.cast(totals["images_sum"], pa.float64()), totals["busy_seconds_sum"]))
    rows = totals.sort_by([("fps", "ascending"), ("mesh", "ascending")]).slice(0, LISTED).to_pylist()
    left_out = f" (the {LISTED} slowest of {len(totals):,})" if len(totals) > LISTED else ""
    return _table(
        [f"Device{left_out}", "#Images", "#Batches", "#Busy", "#FPS, device alone", "#Compile"],
        [
            (
                row["mesh"],
                f"{row['images_sum']:,}",
                f"{row['batches_sum']:,}",
                _duration(row["busy_seconds_sum"]),
                f"{row['fps']:,.1f}",
                f"{row['compile_seconds_max']:,.2f} s",
            )
            for row in rows
        ],
    )


def _classes(summary: Summary, table: pa.Table) -> str:
    if not summary.labelled:
        most = table.sort_by([("predicted", "descending"), ("class", "ascending")]).slice(0, LISTED).to_pylist()
        rows = [(row["name"], f"{row['predicted']:,}") for row in most if row["predicted"]]
        return _section(
            "Predicted classes", "The images have no labels, so there is no accuracy.", _table(["Class", "#Images"], rows)
        )
    seen = table.filter(pc.greater(table["images"], 0)).sort_by([("accuracy", "ascending"), ("class", "ascending")])
    accuracy, low, high = (seen[name].to_numpy() for name in ("accuracy", "accuracy_low", "accuracy_high"))
    if len(seen) <= NAMED_CLASSES:
        figure = Figure((10.4, 0.9 + 0.26 * len(seen)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(seen)), accuracy, color=ACCENT, alpha=0.75, height=0.7)
        interval = np.maximum(np.stack([accuracy - low, high - accuracy]), 0)
        axes.errorbar(accuracy, range(len(seen)), xerr=interval, fmt="none", color="#1e293b", linewidth=1, capsize=2.5)
        axes.set_yticks(range(len(seen)), [_clean(name, 40) for name in seen["name"].to_pylist()])
        axes.set_ylim(len(seen) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.axvline(summary.top1 or 0, color=WARM, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    else:
        figure = Figure((10.4, 3.2), layout="constrained")
        axes = figure.subplots()
        x = np.arange(1, len(seen) + 1)
        axes.fill_between(x, low, high, color=ACCENT, alpha=0.15, linewidth=0, step="mid")
        axes.plot(x, accuracy, color=ACCENT, linewidth=1.6, drawstyle="steps-mid")
        axes.axhline(summary.top1 or 0, color=WARM, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xlim(1, len(seen))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(f"{len(seen):,} classes, least accurate first")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    note = f"Top-1 with 95% intervals, least accurate first; dashed: all images together, {summary.top1:.2%}."
    least = [
        (
            row["name"],
            f"{row['accuracy']:.1%}",
            f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}",
            f"{row['images']:,}",
            f"{row['errors']:,}",
            f"{row['confused_with_name']} ({row['confused_images']:,})" if row["confused_images"] else "",
        )
        for row in seen.slice(0, LISTED).to_pylist()
    ]
    heading = "Class" if len(seen) <= LISTED else f"Class (the {LISTED} least accurate of {len(seen):,})"
    header = [heading, "#Top-1", "#95% interval", "#Images", "#Errors", "Most confused with"]
    return _section("Accuracy by class", note, _image(figure, "Accuracy of each class"), _table(header, least))


def _confused(table: pa.Table) -> str:
    wrong = table.filter(pc.not_equal(table["label"], table["prediction"]))
    total = pc.sum(wrong["count"]).as_py() or 0
    if not total:
        return _section("Most confused pairs", "No classified image got a wrong class.")
    rows = [
        (row["label_name"], row["prediction_name"], f"{row['count']:,}", f"{row['count'] / total:.1%}")
        for row in wrong.slice(0, LISTED).to_pylist()
    ]
    note = f"{total:,} images got a wrong class, in {len(wrong):,} pairs of label and prediction."
    return _section("Most confused pairs", note, _table(["Label", "Predicted", "#Images", "#Share of the wrong"], rows))


def _batch_times(summary: Summary, table: pa.Table) -> str:
    if not len(table):
        return _section("Batch times", "No full batch ran.")
    low, high = table["from_ms"].to_numpy(), table["to_ms"].to_numpy()
    ratio = (high[0] / low[0]) ** max(1, int(np.ceil(np.log(high[-1] / low[0]) / np.log(high[0] / low[0]) / 60)))
    edges = low[0] * ratio ** np.arange(2 + int(np.log(high[-1] / low[0]) / np.log(ratio)))
    batches, _ = np.histogram(np.sqrt(low * high), bins=edges, weights=table["batches"].to_numpy())
    figure = Figure((10.4, 2.7), layout="constrained")
    axes = figure.subplots()
    axes.stairs(batches, edges, fill=True, color=ACCENT, alpha=0.75)
    for name, value in (("p50", summary.inference_p50_ms), ("p99", summary.inference_p99_ms)):
        axes.axvline(value or 0, color=WARM, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            name, (value or 0, 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points", color=WARM, fontsize=9
        )
    axes.set_xlabel("milliseconds a full batch kept its device")
    axes.set_ylabel("batches")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if high[-1] > 5 * low[0]:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.xaxis.set_minor_formatter("")
    note = f"{summary.full_batches:,} full batches of {summary.batches:,}; p50 and p99 are within 0.5%."
    return _section("Batch times", note, _image(figure, "Histogram of batch times"))


def _errors(summary: Summary, table: pa.Table) -> str:
    if not summary.errors:
        return _section("Errors", "Every image was classified.")
    rows = [(row["reason"] or "(various)", f"{row['images']:,}") for row in table.slice(0, LISTED).to_pylist()]
    note = f"{summary.errors:,} images could not be classified; a labelled one counts as wrong. N stands for a number."
    return _section("Errors", note, _table(["Reason", "#Images"], rows))


def _faults(summary: Summary, table: pa.Table) -> str:
    if not len(table):
        return ""
    rows = [
        (row["attempt"], f"{row['at']:%H:%M:%S}" if row["at"] else "", row["kind"], row["where"], row["what"])
        for row in table.slice(0, LISTED).to_pylist()
    ]
    what = f"What (the first {LISTED} of {len(table):,})" if len(table) > LISTED else "What"
    note = f"Met and survived: every image has one row all the same. {summary.faults}."
    return _section("Faults", note, _table(["#Attempt", "#At (UTC)", "Kind", "Where", what], rows))


def _config(summary: Summary) -> str:
    facts = [("data", summary.data), ("model", summary.model), ("model digest (SHA-256)", summary.model_digest)]
    facts += [("runs on", device) for device in summary.devices[:LISTED]]
    for name, value in json.loads(summary.config).items():
        facts.append((name, value if isinstance(value, str) or value is None else json.dumps(value)))
    facts += [(f"{name} version", version) for name, version in json.loads(summary.versions).items()]
    rows = [(name, "not set" if value is None else value) for name, value in facts]
    return _section("Configuration and versions", "", _table(["Name", "Value"], rows))


def _started(table: pa.Table) -> str:
    if not len(table):
        return ""
    first = pc.min(table["window_start"]).as_py()
    return f"{first:%Y-%m-%d %H:%M} UTC"


def _section(title: str, note: str, *parts: str) -> str:
    quiet = f'<p class="quiet">{_text(note)}</p>' if note else ""
    return f"<section><h2>{_text(title)}</h2>{quiet}{''.join(parts)}</section>"


def _table(header: list[str], rows: Iterable[tuple[Any, ...]]) -> str:
    """An HTML table; columns whose heading starts with # hold numbers."""
    kinds = [' class="number"' if name.startswith("#") else "" for name in header]
    head = "".join(f"<th{kind}>{_text(name.removeprefix('#'))}</th>" for kind, name in zip(kinds, header, strict=True))
    lines = (
        "<tr>" + "".join(f"<td{kind}>{_text(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _image(figure: Figure, description: str) -> str:
    """The figure as an SVG image inside the page; isolated there, so nothing in it can run or clash."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f'<img alt="{_text(description)}" src="data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _milliseconds(value: float | None) -> str:
    return f"{value:,.2f}" if value is not None and value < 100 else f"{value:,.0f}"


def _clean(text: str, limit: int = 60) -> str:
    """Text as XML can hold it, cut to `limit` characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _text(text: str) -> str:
    return escape(_clean(text, 2000))
