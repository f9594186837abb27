"""Drawings as SVG within the page: their colours are the page's variables, their text is text."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from jobs.reporting.page.colours import COLOURS, light

Rows = list[dict[str, Any]]
"""A table's rows: a column's name -> its value."""

WIDTH = 10.4
"""Inches; a font of 10 points is read at about 14 pixels on a page of full width."""
DASHED = (0, (4, 3))

SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": light("axis"),
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": light("quiet"),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.color": light("grid"),
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "loudbox-vit",  # else every drawing would name its parts anew
    "text.color": light("ink"),
    "text.parse_math": False,  # a class may be called $5
    "xtick.color": light("axis"),
    "xtick.labelcolor": light("quiet"),
    "ytick.color": light("axis"),
    "ytick.labelcolor": light("quiet"),
}

_VARIABLES = {pair[0]: f"var(--{name})" for name, pair in COLOURS.items()}
_REFERENCE = re.compile(r'(?<=href="#)[\w-]+|(?<=url\(#)[\w-]+')


@contextmanager
def drawing() -> Iterator[None]:
    """Figures made inside look like the page."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts draw what matplotlib's cannot measure
        yield


def column(rows: Rows, name: str) -> np.ndarray:
    """One of the numbers of each row."""
    return np.array([row[name] for row in rows])


def intervals(rows: Rows) -> np.ndarray:
    """How far an accuracy's interval reaches below and above it; (2, rows)."""
    accuracy = column(rows, "accuracy")
    return np.maximum([accuracy - column(rows, "accuracy_low"), column(rows, "accuracy_high") - accuracy], 0)


def svg(figure: Figure, description: str) -> Markup:
    """The figure as an element of the page; the description is what is read to those who do not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue().decode()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", drawn, flags=re.DOTALL)
    drawn = drawn.replace("xlink:href", "href")
    opening = drawn[: drawn.index(">")]
    (box,) = re.findall(r'viewBox="([\d. ]+)"', opening)
    # Names of parts must differ between the drawings of a page; those that nothing refers to are left out.
    mark, referred = hashlib.sha256(drawn.encode()).hexdigest()[:8], set(_REFERENCE.findall(drawn))
    inner = _REFERENCE.sub(lambda name: f"{mark}-{name[0]}", drawn[len(opening) + 1 :])
    inner = re.sub(r' id="([^"]*)"', lambda found: f' id="{mark}-{found[1]}"' if found[1] in referred else "", inner)
    inner = re.sub(r' style="[^"]*"', _with_variables, inner)
    return Markup(f'<svg class="plot" viewBox="{box}" role="img" aria-label="{escape(description)}">{inner.rstrip()}')


def _with_variables(style: re.Match[str]) -> str:
    return re.sub(r"#[0-9a-f]{6}", lambda colour: _VARIABLES.get(colour[0], colour[0]), style[0])
