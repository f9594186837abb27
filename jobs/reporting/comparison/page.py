"""A comparison as one self-contained HTML page."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.reporting.comparison.tables import Comparison, p_text, points
from jobs.reporting.page.document import document
from jobs.reporting.page.markup import cards, listing, section, table

LISTED_CLASSES = 2000  # flips_per_class.parquet has all


def page(c: Comparison, runs: tuple[str, str], tables: dict[str, pa.Table]) -> str:
    """The page. runs: where A and B are; tables: those of the Parquet files by name, of long ones the first rows. All text
    in it is escaped."""
    return document(
        f"{runs[1]} compared with {runs[0]}",
        c.verdict[0].upper() + c.verdict[1:],
        [
            f"A: {runs[0]}, run {c.run_a}, on {'; '.join(c.devices_a[:8])}",
            f"B: {runs[1]}, run {c.run_b}, on {'; '.join(c.devices_b[:8])}",
        ],
        [
            _simulated(c),
            _cards(c),
            _classes(c, tables["flips_per_class"]),
            _flips(c, tables["flips"]),
            _only_in_one(c, tables["only_in_one"]),
            _settings(tables["settings"]),
        ],
    )


def _simulated(c: Comparison) -> str:
    runs = [run for run, simulated in (("A", c.simulated_a), ("B", c.simulated_b)) if simulated]
    if not runs:
        return ""
    return (
        f'<div class="notice simulated"><b>SIMULATED</b> — no accelerator ran in run {" and ".join(runs)}. '
        "Those times say nothing about hardware, and answers only where ttsim ran the kernels: see the runs' own pages.</div>"
    )


def _cards(c: Comparison) -> str:
    facts: list[tuple[str, ...]] = [
        ("Agreement", f"{c.agreement:.3%}", f"{c.flips:,} of {c.images:,} answers differ", _errors(c))
    ]
    if c.difference is not None and c.difference_low is not None and c.difference_high is not None:
        between = f"95% interval {points(c.difference_low)} to {points(c.difference_high)}"
        left_out = f"; {c.relabelled:,} with two labels left out" if c.relabelled else ""
        shares = f"{c.top1_a:.3%} to {c.top1_b:.3%} of {c.labelled:,} labelled images{left_out}"
        facts.append(("Top-1 accuracy, points", points(c.difference), between, shares))
        evidence = f"exact, two-sided: {c.lost:,} right to wrong, {c.gained:,} wrong to right"
        facts.append(("McNemar's test", f"p {p_text(c.p_value)}", evidence, f"{c.still_wrong:,} wrong to another wrong"))
    for name, ratio, was, became, unit in (
        ("FPS, whole system", c.system_fps_ratio, c.system_fps_a, c.system_fps_b, "images/s"),
        ("FPS, one device alone", c.device_fps_ratio, c.device_fps_a, c.device_fps_b, "images/s"),
        ("Inference time", c.inference_ratio, c.inference_ms_a, c.inference_ms_b, "ms a full batch"),
    ):
        if ratio is not None:
            facts.append((name, f"{ratio:.3f} ×", f"{was:,.2f} to {became:,.2f} {unit}", ""))  # noqa: RUF001
    return cards(facts)


def _errors(c: Comparison) -> str:
    return f"errors: {c.errors_a:,} in A, {c.errors_b:,} in B" if c.errors_a or c.errors_b else "no errors in either"


def _classes(c: Comparison, by_class: pa.Table) -> str:
    if not c.labelled:
        return section("Flips by class", "The images have no labels.")
    changes = pc.add(pc.add(by_class["lost"], by_class["gained"]), by_class["still_wrong"])
    changed = by_class.append_column("changes", changes).filter(pc.greater(changes, 0))
    most = changed.sort_by([("changes", "descending"), ("class", "ascending")]).slice(0, LISTED_CLASSES)
    note = f"{changed.num_rows:,} of {by_class.num_rows:,} classes have an image whose answer changed"
    note += f"; the {LISTED_CLASSES:,} with most." if changed.num_rows > LISTED_CLASSES else ", those with most first."
    columns = ("name", "images", "correct_a", "correct_b", "lost", "gained", "still_wrong")
    headings = ["Class", "#Images", "#Right in A", "#Right in B", "#Right to wrong", "#Wrong to right", "#Wrong to wrong"]
    return section("Flips by class", note, _list("Classes", headings, most.select(columns)))


def _flips(c: Comparison, flips: pa.Table) -> str:
    if not c.flips:
        return section("Images whose answer changed", "None.")
    first = f"the first {flips.num_rows:,} of " if flips.num_rows < c.flips else ""
    note = f"{c.flips:,}; {first}flips.parquet." if first else f"{c.flips:,}, as in flips.parquet."
    columns = ("image_id", "label_name", "name_a", "probability_a", "name_b", "probability_b", "kind")
    headings = ["Image", "Label", "Answer in A", "#Probability", "Answer in B", "#Probability", "Flip"]
    return section("Images whose answer changed", note, _list("Images", headings, flips.select(columns)))


def _only_in_one(c: Comparison, images: pa.Table) -> str:
    total = c.only_a + c.only_b
    if not total:
        return ""
    note = f"{c.only_a:,} only in A, {c.only_b:,} only in B; not compared. only_in_one.parquet has all of them"
    note += f", here are the first {images.num_rows:,}." if images.num_rows < total else "."
    return section("Images of one run alone", note, _table(["Image", "Run"], images.select(["image_id", "run"])))


def _settings(differing: pa.Table) -> str:
    if not differing.num_rows:
        return section("Configuration and versions", "Nothing differs.")
    return section("Configuration and versions", "What differs.", _table(["Setting", "A", "B"], differing))


def _list(title: str, headings: list[str], rows: pa.Table) -> str:
    return listing(title, _table(headings, rows, kind="sortable"))


def _table(headings: list[str], rows: pa.Table, kind: str = "") -> str:
    return table(headings, (tuple(map(_shown, row.values())) for row in rows.to_pylist()), kind=kind)


def _shown(value: Any) -> str:
    if value is None:
        return "—"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
