"""Pages from their templates, and how they write times. A template escapes all text, and a text is cut where it is very long."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jobs.reporting.page.colours import variables
from jobs.running.clearing import GENERATOR

HERE = Path(__file__).parent
MOST_CHARACTERS = 2000


def render(template: str, **context: Any) -> str:
    """The page of a template of this folder; equal arguments give an equal page."""
    return environment().get_template(template).render(context)


@cache
def environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(str(value), MOST_CHARACTERS),
    )
    found.filters |= {"as": format, "duration": duration, "ms": milliseconds, "given": given}
    script = (HERE / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found.globals |= {
        "generator": Markup(GENERATOR),
        "style": Markup(variables() + (HERE / "page.css").read_text()),
        "script": Markup(script),
        "policy": Markup(f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"),
    }
    return found


def given(value: Any, form: str = "") -> str:
    """The value as `format` writes it, or a dash for none."""
    return "—" if value is None else format(value, form)


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def milliseconds(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def time_unit(longest: float) -> tuple[float, str]:
    """Seconds in the unit in which such a time is drawn, and its name."""
    return (1, "seconds") if longest < 300 else (60, "minutes") if longest < 18000 else (3600, "hours")


def clean(text: str, limit: int = 60) -> str:
    """Text as XML can hold it, cut to `limit` characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
