"""Labels of a flat folder in a text file: one line an image."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import socket
from collections.abc import Iterator
from typing import NamedTuple

from jobs.pipeline.labels import LabelSpace
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, has_extension, open_place
from jobs.pipeline.storage import shown, storage_errors
from vit_actor.errors import UserError

_NAME_AND_LABEL = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_EXTENSIONS))}))[ \t,;]+(.+)", re.IGNORECASE)


class Line(NamedTuple):
    """The name of an image, None where lines go by the images' order, and its class index."""

    name: str | None
    label: int


def digest_of(uri: str) -> str:
    """SHA-256 of a labels file. Raises UserError where it cannot be read."""
    filesystem, path = open_place(uri)
    with storage_errors(uri), filesystem.open_input_file(path) as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def check_digest(uri: str, digest: str | None) -> None:
    """Raise UserError where a labels file is not the one that the job was started with."""
    if digest_of(uri) != digest:
        where = f"on {socket.gethostname()} it is another file than where the job was started"
        raise UserError(f"{shown(uri)}: {where}, or it has changed; put it where all hosts see it")


def read_labels(uri: str, space: LabelSpace) -> Iterator[Line]:
    """The lines of a labels file, as a stream: all `name label` or all just `label`.

    A .csv file has the columns name, label (quoted as usual, a header is skipped), or label alone; any other
    file has the name, white space, and the label. Labels are class names, indices or WordNet ids. A name may be given
    with folders in front, which are ignored. Lines with a label alone are in the order of the images' sorted names.
    Raises UserError for an unreadable file, a label that is no class of the checkpoint, and for the ILSVRC devkit's
    ILSVRC2012_validation_ground_truth.txt, whose numbers count the classes in an order of their own.
    """
    if "validation_ground_truth" in uri.rpartition("/")[2]:
        raise UserError(
            f"{shown(uri)}: its numbers are the devkit's ILSVRC2012_ID, not class indices; "
            "give a file of names and WordNet ids instead"
        )
    filesystem, path = open_place(uri)
    named = None
    with storage_errors(uri), filesystem.open_input_file(path) as raw:
        text = io.TextIOWrapper(io.BufferedReader(raw, 1 << 20), encoding="utf-8-sig", newline="")
        try:
            for number, (name, label) in enumerate(_csv(text) if uri.lower().endswith(".csv") else _plain(text), 1):
                if named is not None and named != (name is not None):
                    raise UserError("some lines have an image name and some have not")
                named = name is not None
                try:
                    yield Line(name and name.rpartition("/")[2], space.index(label))
                except UserError as error:
                    raise UserError(f"label {number}: {error}") from None
        except UnicodeDecodeError:
            raise UserError(f"{shown(uri)}: not a UTF-8 text file") from None
        except (UserError, csv.Error) as error:
            raise UserError(f"{shown(uri)}: {error}") from None


def _csv(text: io.TextIOWrapper) -> Iterator[tuple[str | None, str]]:
    for number, row in enumerate(row for row in csv.reader(text) if any(cell.strip() for cell in row)):
        if len(row) == 1:
            yield None, row[0]
        elif number or has_extension(row[0].strip(), IMAGE_EXTENSIONS):
            yield row[0].strip(), row[1]


def _plain(text: io.TextIOWrapper) -> Iterator[tuple[str | None, str]]:
    for line in text:
        found = _NAME_AND_LABEL.fullmatch(line.strip())
        if found:
            yield found[1], found[2]
        elif line.strip():
            yield None, line.strip()
