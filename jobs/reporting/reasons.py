"""Why images have no answer: error messages counted, in bounded size."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

# Lengths error messages are cut to until there are few enough distinct ones.
REASON_LENGTHS = (160, 80, 40, 20, 10, 5, 0)
MAX_REASONS = 500
NUMBER = re.compile(r"\b0x[0-9a-f]+\b|\d+")


@dataclass
class Reasons:
    """Error messages with how many images each cost, cut to the longest length that leaves at most MAX_REASONS of them.

    `length` indexes REASON_LENGTHS. Numbers read N, so that messages that differ in a size or address are one.
    `first`: of each message's images the first by id, so that one can be looked at.
    """

    length: int = 0
    images: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, text: str, images: int, first: str) -> None:
        self.images[text] += images
        self.first[text] = min(first, self.first.get(text, first))

    def __iadd__(self, other: Reasons) -> Reasons:
        for text, images in other.images.items():
            self.add(text, images, other.first[text])
        self.length = max(self.length, other.length)
        if other.images:
            self._shorten()
        while len(self.images) > MAX_REASONS:
            self.length += 1
            self._shorten()
        return self

    def _shorten(self) -> None:
        shorter = Reasons()
        for text, images in self.images.items():
            shorter.add(text[: REASON_LENGTHS[self.length]], images, self.first[text])
        self.images, self.first = shorter.images, shorter.first


def reason(message: str | None) -> str:
    """An error's message as it is counted."""
    return NUMBER.sub("N", message or "no prediction")[: REASON_LENGTHS[0]]
