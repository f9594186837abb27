"""Drawings that are as wide as the reader's page: shapes in an SVG that stretches, and words beside it that do not."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]  # A table's rows: a column's name -> its value

SIZE = 1000  # Units of a drawing's width and height
TICKS = 5


@dataclass(frozen=True)
class Axis:
    """Values from low to high; what they are; how they are written. log: in equal ratios, of positive values."""

    low: float
    high: float
    label: str
    write: Callable[[float], str] = "{:,.4g}".format
    log: bool = False
    names: tuple[str, ...] = ()

    def at(self, values: Any) -> np.ndarray:
        """Where values lie, from 0 to SIZE."""
        low, high, values = (np.log(each) if self.log else np.asarray(each) for each in (self.low, self.high, values))
        return np.clip((values - low) / max(high - low, 1e-12), 0, 1) * SIZE

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(percent of the axis, text): round values, or the axis' own names for 0, 1, ..."""
        if self.names:
            return [(float(self.at(n) / SIZE * 100), name) for n, name in enumerate(self.names)]
        if self.log:
            tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            values = np.array([part * 10.0**ten for ten in tens for part in (1, 2, 5)])
        else:
            step = 10 ** math.floor(math.log10(max(self.high - self.low, 1e-12) / TICKS))
            step *= next(part for part in (1, 2, 5, 10) if (self.high - self.low) / (step * part) <= TICKS + 1e-9)
            values = np.arange(math.ceil(self.low / step - 1e-9), self.high / step + 1e-9) * step
        inside = values[(values >= self.low - 1e-12) & (values <= self.high * (1 + 1e-9))]
        return [(round(float(self.at(value)) / SIZE * 100, 2), self.write(float(value))) for value in inside]


@dataclass
class Drawing:
    """A chart's parts, for the macro `chart`.

    description: what is read to those who do not see it. height: CSS pixels.
    shapes: (kind, colour, path). marks: (percent from left, percent from below, sign, colour, what it says).
    legend: (sign, colour, text). image: a picture's data URI that fills it.
    """

    x: Axis
    y: Axis
    description: str
    height: int = 210
    shapes: list[tuple[str, str, str]] = field(default_factory=list)
    marks: list[tuple[float, float, str, str, str]] = field(default_factory=list)
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    image: str = ""

    def line(self, colour: str, x: Any, y: Any, kind: str = "line") -> None:
        """A line through points; of kind `area` it encloses what is filled, `dash` is dashed, `dots` are round points."""
        pairs = zip(self.x.at(x), SIZE - self.y.at(y), strict=True)
        points = [f"{across:.1f} {down:.1f}" for across, down in pairs]
        path = "".join(f"M{point}h0" for point in points) if kind == "dots" else "M" + "L".join(points)
        self.shapes.append((kind, colour, path))

    def bars(self, colour: str, left: Any, right: Any, heights: Any) -> None:
        """Bars from zero, each from left to right."""
        bars = zip(self.x.at(left), self.x.at(right), SIZE - self.y.at(heights), strict=True)
        path = "".join(f"M{a:.1f} {SIZE}V{top:.1f}H{b:.1f}V{SIZE}z" for a, b, top in bars if top < SIZE)
        self.shapes.append(("area bars", colour, path))

    def whiskers(self, x: Any, low: Any, high: Any) -> None:
        """Upright lines from low to high."""
        ends = zip(self.x.at(x), SIZE - self.y.at(low), SIZE - self.y.at(high), strict=True)
        self.shapes.append(("line", "ink", "".join(f"M{at:.1f} {a:.1f}V{b:.1f}" for at, a, b in ends)))

    def mark(self, x: float, y: float, sign: str, colour: str, says: str) -> None:
        left, below = (round(float(axis.at(value)) / SIZE * 100, 2) for axis, value in ((self.x, x), (self.y, y)))
        self.marks.append((left, below, sign, colour, says))


def column(rows: Rows, name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])
