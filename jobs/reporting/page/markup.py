"""Sections, tables and figures of speech of a page. All text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def section(title: str, note: str, *parts: str) -> str:
    quiet = f'<p class="quiet">{text(note)}</p>' if note else ""
    return f'<section aria-label="{text(title)}"><h2>{text(title)}</h2>{quiet}{"".join(parts)}</section>'


def table(header: list[str], rows: Iterable[tuple[Any, ...]], caption: str = "", *, kind: str = "") -> str:
    """An HTML table; columns whose heading starts with # hold numbers. Cells are text, or Markup. kind: its CSS class."""
    kinds = [' class="number"' if name.startswith("#") else "" for name in header]
    head = "".join(f'<th scope="col"{kind}>{text(name.removeprefix("#"))}</th>' for kind, name in zip(kinds, header, strict=True))
    lines = (
        "<tr>" + "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>" for row in rows
    )
    named = f"<caption>{text(caption)}</caption>" if caption else ""
    opening = f'<table class="{kind}">' if kind else "<table>"
    return f"{opening}{named}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def listing(title: str, table: str) -> str:
    """A long table in a frame of its own to scroll."""
    return f'<div class="all" tabindex="0" role="region" aria-label="{text(title)}">{table}</div>'


def cards(facts: Iterable[tuple[str, ...]]) -> str:
    """Headline numbers, each a name, a value and lines about it."""
    shown = []
    for name, value, *notes in facts:
        lines = "".join(f"<p>{text(note)}</p>" for note in notes if note)
        shown.append(f'<div class="card"><span>{text(name)}</span><b>{text(value)}</b>{lines}</div>')
    return f'<div class="cards">{"".join(shown)}</div>'


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def time_unit(longest: float) -> tuple[float, str]:
    """Seconds in the unit in which such a time is drawn, and its name."""
    return next(
        (u, n) for u, n, limit in ((1, "seconds", 300), (60, "minutes", 18000), (3600, "hours", float("inf"))) if longest < limit
    )


def milliseconds(value: float | None) -> str:
    return f"{value:,.2f}" if value is not None and value < 100 else f"{value:,.0f}"


def clean(value: str, limit: int = 60) -> str:
    """Text as XML can hold it, cut to `limit` characters."""
    value = "".join(c if c.isprintable() else " " for c in value)
    return value if len(value) <= limit else value[: limit - 1] + "…"


def text(value: str) -> str:
    return escape(clean(value, 2000))


def _cell(value: Any) -> str:
    return value if isinstance(value, Markup) else text(str(value))
