"""How reports and terminals write numbers, times, names and paths."""

from collections.abc import Sequence
from typing import Any


def counted(number: int, noun: str) -> str:
    """1 image, 2 images, 3 batches, 4 classes."""
    if number != 1:
        noun += "es" if noun.endswith(("s", "sh", "ch")) else "s"
    return f"{number:,} {noun}"


def some(names: Sequence[str], most: int) -> str:
    """At most so many of them: 'a, b and 3 more'."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def given(value: Any, form: str = "") -> str:
    """The value as `format` writes it, or a dash for none."""
    return "—" if value is None else format(value, form)


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s" if seconds >= 1 else f"{1000 * seconds:,.0f} ms"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def milliseconds(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def rate(value: float) -> str:
    """10k for ten thousand, and 0.8 for less than one."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def time_unit(longest: float) -> tuple[float, str]:
    """Seconds in the unit in which such a time is drawn, and its name."""
    return (1, "seconds") if longest < 300 else (60, "minutes") if longest < 18000 else (3600, "hours")


def clean(text: str) -> str:
    """Text as XML can hold it, on one line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def shortened(text: str, limit: int) -> str:
    """Text of at most `limit` characters: the middle of a longer one is left out."""
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[len(text) - (limit - 1) // 2 :]}"


COMMON = {"model", "checkpoint", "data", "dataset", "images", "train", "val", "valid", "validation", "test"}
"""Names of folders that say nothing without the folder around them."""


def short_name(address: str) -> str:
    """What a person calls a checkpoint or data set: the last part of its address, with the one before where that says nothing."""
    parts = [part for part in address.partition("?")[0].split("/") if part]
    some = parts[-2:] if parts and parts[-1].lower() in COMMON else parts[-1:]
    return "/".join(part for part in some if not part.endswith(":")) or address
