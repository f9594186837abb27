"""What every layout of a data set offers: a survey before work starts, shards listed as a stream, images read from one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True)
class Shard:
    """A unit of reading: some images of one place, in a fixed order.

    id: unique in the data set, the same on every listing, and safe as a file name.
    payload: what the source needs to read it again; JSON.
    images: how many it has; None where counting would mean reading it.
    """

    id: str
    payload: dict[str, Any]
    images: int | None = None


@dataclass(frozen=True)
class EncodedImage:
    """One image as stored, or why it could not be read (`error`, one line, with empty `data`)."""

    image_id: str
    label: int | None
    data: bytes | memoryview
    error: str | None = None


@dataclass(frozen=True)
class Survey:
    """What a data set holds.

    images: how many, after the limit; None where counting would mean reading everything (tar).
    labelled: whether any image has a label.
    fingerprint: SHA-256 over names, sizes, label source and how shards are cut; a run resumes only under the same.
    held: the classes the data holds, ascending, where those are fewer than the checkpoint's; None where not known.
    labels_from: where labels come from, or where they were looked for if none was found, for people.
    left_out: files that are no data, by their extension; `hidden` for names that say so. Only what a listing sees.
    """

    images: int | None
    labelled: bool
    fingerprint: str
    labels_from: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    held: tuple[int, ...] | None = None


class Source(Protocol):
    """A data set in one layout. Pickles small: it opens its storage anew wherever it is used."""

    def survey(self) -> Survey:
        """Look through the data set as a stream, on the driver.

        Raises UserError for an empty or unreadable data set and for labels that do not fit the checkpoint.
        """

    def roots(self) -> list[str]:
        """Parts that can be listed in parallel; at most ROOTS, however large the data set."""

    def shards(self, root: str) -> Iterator[Shard]:
        """The shards of one root, as a stream, in the same order every time."""

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        """(ordinal in the shard, image) for every ordinal that is `wanted`, ascending.

        The bytes of others are not read where the layout allows. One bad image is one error, never an exception.
        """


ROOTS = 16
"""Parts a data set is listed in: enough to hide a store's latency, few enough to be nothing beside the reading."""

PLACES_PER_ROOT = 64
"""Files or folders below which another listing task costs more than it saves; shards do not reach across roots."""


def root_count(places: int) -> int:
    """How many parts to list a number of files or folders in."""
    return max(1, min(ROOTS, -(-places // PLACES_PER_ROOT)))


def shard_id(place: str, position: int) -> str:
    """A readable, unique file name for the position-th shard of a place (a path below the data set's root)."""
    digest = hashlib.sha256(f"{place}\0{position}".encode("utf-8", "surrogatepass")).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", place)[-64:].strip("-.")
    return f"{readable or 'shard'}-{position:06d}-{digest[:16]}"


def view(buffer: pa.Buffer) -> bytes | memoryview:
    """The bytes of an Arrow buffer, not copied: as unsigned bytes, where Arrow's own view has signed ones."""
    return memoryview(buffer).cast("B") if buffer.size else b""


def printable(name: str) -> str:
    """A path as an image id: itself, with bytes that are not valid UTF-8 shown as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
