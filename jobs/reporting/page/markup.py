"""Pages from their templates. A template escapes all text, and shortens what is long."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jobs.running import words
from jobs.running.clearing import GENERATOR

HERE = Path(__file__).parent
MOST_CHARACTERS = 10_000


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
        finalize=lambda value: value if isinstance(value, Markup) else words.shortened(words.clean(str(value)), MOST_CHARACTERS),
    )
    found.filters |= {
        "as": format,
        "whole": Markup,  # of base64 that is made here
        "counted": words.counted,
        "duration": words.duration,
        "given": words.given,
        "ms": words.milliseconds,
        "short": words.shortened,
    }
    script = (HERE / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found.globals |= {
        "generator": Markup(GENERATOR),
        "style": Markup((HERE / "page.css").read_text()),
        "script": Markup(script),
        "policy": Markup(f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"),
    }
    return found
