"""A hash of what a data set holds, in any order, in constant memory."""

from __future__ import annotations

import hashlib


class SetHash:
    """SHA-256 of each item, summed modulo 2^256: equal for equal collections (repeats counted), in any order."""

    def __init__(self) -> None:
        self.total = 0
        self.count = 0

    def add(self, *item: object) -> None:
        digest = hashlib.sha256("\0".join(map(str, item)).encode("utf-8", "surrogatepass")).digest()
        self.total = (self.total + int.from_bytes(digest)) % 2**256
        self.count += 1

    def merge(self, other: SetHash) -> None:
        self.total = (self.total + other.total) % 2**256
        self.count += other.count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SetHash) and (self.total, self.count) == (other.total, other.count)

    __hash__ = None  # type: ignore[assignment]


def fingerprint(layout: str, contents: SetHash, **settings: object) -> str:
    """SHA-256 (hex) over a layout, its contents and the settings that decide shards and labels."""
    parts = [layout, f"{contents.total:x}", str(contents.count), *(f"{key}={settings[key]}" for key in sorted(settings))]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
