"""Text that is safe on a terminal: names and labels from data sets and checkpoints may hold control characters."""

import sys
from typing import TextIO

from jobs.storage.address import redacted

MOST_CHARACTERS = 1000
ENDS_WITH = 200


def say(text: str, to: TextIO | None = None) -> None:
    """Print the text as `one_line` makes it. to: standard output, if not given."""
    print(one_line(text), file=to or sys.stdout, flush=True)


def one_line(text: str) -> str:
    """The text in one line: escapes for what is not printable, no secrets, and its middle left out where it is long."""
    if len(text) > MOST_CHARACTERS:  # a secret must not be cut before it is known by its value
        begin, end = redacted(text[: 4 * MOST_CHARACTERS]), redacted(text[-MOST_CHARACTERS:])
        left_out = f"[... {len(text) - MOST_CHARACTERS:,} characters more ...]"
        text = f"{begin[: MOST_CHARACTERS - ENDS_WITH]} {left_out} {end[-ENDS_WITH:]}"
    else:
        text = redacted(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
