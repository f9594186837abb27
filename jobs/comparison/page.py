"""A comparison as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.comparison.tables import Comparison, p_text, points
from jobs.report_page.page import STYLE

LISTED_CLASSES = 50


def page(c: Comparison, runs: tuple[str, str], tables: dict[str, pa.Table]) -> str:
    """The page. runs: where A and B are; tables: those of the Parquet files by name, of long ones the first rows. All text
    in it is escaped."""
    title = f"{runs[1]} compared with {runs[0]}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head>{head}<style>{STYLE}</style></head><body><main>',
            f"<h1>{escape(c.verdict[0].upper() + c.verdict[1:])}</h1>",
            f'<p class="quiet">A: {escape(runs[0])}, run {escape(c.run_a)}, on {escape("; ".join(c.devices_a[:8]))}</p>',
            f'<p class="quiet">B: {escape(runs[1])}, run {escape(c.run_b)}, on {escape("; ".join(c.devices_b[:8]))}</p>',
            _simulated(c),
            _cards(c),
            _classes(c, tables["flips_per_class"]),
            _flips(c, tables["flips"]),
            _only_in_one(c, tables["only_in_one"]),
            _settings(tables["settings"]),
            "</main></body></html>\n",
        ]
    )


def _simulated(c: Comparison) -> str:
    runs = [run for run, simulated in (("A", c.simulated_a), ("B", c.simulated_b)) if simulated]
    if not runs:
        return ""
    return (
        f'<div class="notice simulated"><b>SIMULATED</b> — no accelerator ran in run {" and ".join(runs)}. '
        "Times come from a model of the device, and answers are not a checkpoint's.</div>"
    )


def _cards(c: Comparison) -> str:
    cards = [("Agreement", f"{c.agreement:.3%}", f"{c.flips:,} of {c.images:,} answers differ", _errors(c))]
    if c.difference is not None and c.difference_low is not None and c.difference_high is not None:
        between = f"95% interval {points(c.difference_low)} to {points(c.difference_high)}"
        left_out = f"; {c.relabelled:,} with two labels left out" if c.relabelled else ""
        shares = f"{c.top1_a:.3%} to {c.top1_b:.3%} of {c.labelled:,} labelled images{left_out}"
        cards.append(("Top-1 accuracy, points", points(c.difference), between, shares))
        evidence = f"exact, two-sided: {c.lost:,} right to wrong, {c.gained:,} wrong to right"
        cards.append(("McNemar's test", f"p {p_text(c.p_value)}", evidence, f"{c.still_wrong:,} wrong to another wrong"))
    for name, ratio, was, became, unit in (
        ("FPS, whole system", c.system_fps_ratio, c.system_fps_a, c.system_fps_b, "images/s"),
        ("FPS, one device alone", c.device_fps_ratio, c.device_fps_a, c.device_fps_b, "images/s"),
        ("Inference time", c.inference_ratio, c.inference_ms_a, c.inference_ms_b, "ms a full batch"),
    ):
        if ratio is not None:
            cards.append((name, f"{ratio:.3f} ×", f"{was:,.2f} to {became:,.2f} {unit}", ""))  # noqa: RUF001
    return f'<div class="cards">{"".join(_card(*card) for card in cards)}</div>'


def _errors(c: Comparison) -> str:
    return f"errors: {c.errors_a:,} in A, {c.errors_b:,} in B" if c.errors_a or c.errors_b else "no errors in either"


def _card(name: str, value: str, *notes: str) -> str:
    lines = "".join(f"<p>{escape(note)}</p>" for note in notes if note)
    return f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b>{lines}</div>'


def _classes(c: Comparison, table: pa.Table) -> str:
    if not c.labelled:
        return _section("Flips by class", "The images have no labels.")
    changes = pc.add(pc.add(table["lost"], table["gained"]), table["still_wrong"])
    changed = table.append_column("changes", changes).filter(pc.greater(changes, 0))
    most = changed.sort_by([("changes", "descending"), ("class", "ascending")]).slice(0, LISTED_CLASSES)
    note = f"{changed.num_rows:,} of {table.num_rows:,} classes have an image whose answer changed"
    note += f"; here are the {LISTED_CLASSES} with most." if changed.num_rows > LISTED_CLASSES else "."
    columns = ("name", "images", "correct_a", "correct_b", "lost", "gained", "still_wrong")
    headings = ["Class", "#Images", "#Right in A", "#Right in B", "#Right to wrong", "#Wrong to right", "#Wrong to wrong"]
    return _section("Flips by class", note, _table(headings, most.select(columns)))


def _flips(c: Comparison, table: pa.Table) -> str:
    if not c.flips:
        return _section("Images whose answer changed", "None.")
    first = f"the first {table.num_rows:,} of " if table.num_rows < c.flips else ""
    note = f"{c.flips:,}; {first}flips.parquet." if first else f"{c.flips:,}, as in flips.parquet."
    columns = ("image_id", "label_name", "name_a", "probability_a", "name_b", "probability_b", "kind")
    headings = ["Image", "Label", "Answer in A", "#Probability", "Answer in B", "#Probability", "Flip"]
    return _section("Images whose answer changed", note, _table(headings, table.select(columns)))


def _only_in_one(c: Comparison, table: pa.Table) -> str:
    total = c.only_a + c.only_b
    if not total:
        return ""
    note = f"{c.only_a:,} only in A, {c.only_b:,} only in B; not compared. only_in_one.parquet has all of them"
    note += f", here are the first {table.num_rows:,}." if table.num_rows < total else "."
    return _section("Images of one run alone", note, _table(["Image", "Run"], table.select(["image_id", "run"])))


def _settings(table: pa.Table) -> str:
    if not table.num_rows:
        return _section("Configuration and versions", "Nothing differs.")
    return _section("Configuration and versions", "What differs.", _table(["Setting", "A", "B"], table))


def _section(title: str, note: str, *parts: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="quiet">{escape(note)}</p>{"".join(parts)}</section>'


def _table(headings: list[str], table: pa.Table) -> str:
    """A heading that begins with # is of a column of numbers."""
    kinds = [' class="number"' if heading.startswith("#") else "" for heading in headings]
    head = "".join(f"<th{kind}>{escape(heading.lstrip('#'))}</th>" for heading, kind in zip(headings, kinds, strict=True))
    rows: Iterable[dict[str, Any]] = table.to_pylist()
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{escape(_shown(value))}</td>' for value, kind in zip(row.values(), kinds, strict=True))}</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _shown(value: Any) -> str:
    if value is None:
        return "—"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
