"""What every layout of a data set offers: its shards, listed as a stream, and the images of one of them."""

import hashlib
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from jobs.storage.address import below


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
    labels_from: where labels come from and how sure that is, or where they were looked for if none was found, for people.
    left_out: what is there and not classified, by kind in words with an example, most first. Only what a listing sees.
    held: the classes the data holds, ascending, where those are fewer than the checkpoint's; None where not known.
    labels_by: what labels depend on, beside the shards and the checkpoint: a column, a file's digest.
    shards: of the whole data set, in its order, packed; see `surveyed`, which gives a survey this and the next.
    fingerprint: SHA-256 over labels_by and the shards, so over names, sizes and how shards are cut; a run resumes only under the
        same.
    """

    images: int | None
    labelled: bool
    labels_from: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    held: tuple[int, ...] | None = None
    labels_by: str = ""
    shards: list[bytes] = field(default_factory=list, repr=False)
    fingerprint: str = ""


class Source(Protocol):
    """A data set in one layout. Pickles small: it opens its storage anew wherever it is used."""

    @property
    def folder(self) -> str:
        """The address that names of files are below."""

    def shards(self) -> Generator[Shard, None, Survey]:
        """List the data set as a stream of shards, the same in the same order every time; at the end, what it holds.

        Raises UserError for an empty or unreadable data set and for labels that do not fit the checkpoint, some of them only at
        the end.
        """

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        """(ordinal in the shard, image) for every ordinal that is `wanted`, ascending.

        The bytes of others are not read where the layout allows. One bad image is one error, never an exception. Raises
        StorageError for what storage does, Gone among them for a file of many images that is not the one that was listed.
        """


def address_of(source: Source, shard: Shard, ordinal: int) -> str:
    """Of the file that an image of a shard is in."""
    return below(source.folder, shard.payload["paths"][ordinal] if "paths" in shard.payload else shard.payload["file"])


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
