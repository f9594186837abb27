"""Labels of a flat folder in a text file: one line an image."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from pyarrow.fs import FileType

from jobs.pipeline.labels import WNID, LabelError, LabelSpace
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS
from jobs.storage.address import below, shown
from jobs.storage.failure import patiently
from jobs.storage.files import SteadyFile, open_storage
from vit_actor.errors import UserError

_NAME_AND_LABEL = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_EXTENSIONS))}))[ \t,;]+(.+)", re.IGNORECASE)
_WNID_AND_BOXES = re.compile(rf"({WNID.pattern})\s.*")

NAME_HEADERS = ("filename", "imageid", "image", "imagename", "path", "file", "name", "id", "key")
LABEL_HEADERS = ("label", "labels", "class", "cls", "classid", "wnid", "synset", "predictionstring", "target", "category")
"""Of CSV columns, in small letters and without what is none; the first that is there counts."""

METADATA = ("metadata.csv", "metadata.jsonl")
"""Beside the images, in the form of `datasets`."""

MAX_LINE = 2**20
"""Characters a line may have."""


class Line(NamedTuple):
    """The name of an image, None where lines go by the images' order, and its class index."""

    name: str | None
    label: int


def digest_of(uri: str) -> str:
    """SHA-256 of a labels file. Raises UserError where it cannot be read."""
    with SteadyFile(uri) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def metadata_of(folder: str) -> str | None:
    """The file beside the images of a folder that has their labels as `datasets` keeps them; None where it has none."""
    for name in METADATA:
        uri = below(folder, name)
        filesystem, path = open_storage(uri)
        if patiently(partial(filesystem.get_file_info, path), uri, "look at").type != FileType.File:
            continue
        with _text(uri) as text, suppress(LabelError, UnicodeDecodeError, csv.Error):
            first = next(_lines(text), "")
            columns = next(csv.reader([first]), []) if name.endswith(".csv") else _fields(first)
            if _columns(columns, LABEL_HEADERS) and _columns(columns, NAME_HEADERS):
                return uri
    return None


def check_digest(uri: str, digest: str | None) -> None:
    """Raise UserError where a labels file is not the one that the job was started with."""
    if digest_of(uri) != digest:
        where = f"on {socket.gethostname()} it is another file than where the job was started"
        raise UserError(f"{shown(uri)}: {where}, or it has changed; put it where all hosts see it")


def read_labels(uri: str, space: LabelSpace, *, folders: bool = False) -> Iterator[Line]:
    """The lines of a labels file, as a stream: all `name label` or all just `label`.

    A .csv file has columns told by a header (NAME_HEADERS, LABEL_HEADERS), else name and label, or label alone; a .jsonl file
    has an object a line with such keys; any other file has the name, white space, and the label. What follows a WordNet id or a
    tab, such as boxes, is ignored. Labels are class names, indices or WordNet ids. A name may be given with folders in front,
    which are ignored, and without its extension: see label_of. Lines with a label alone are in the order of the images' sorted
    names.
    folders: whether those in front of a name are part of it.
    Raises UserError for an unreadable file, a label that is no class of the checkpoint, and for the ILSVRC devkit's
    ILSVRC2012_validation_ground_truth.txt, whose numbers count the classes in an order of their own.
    """
    if "validation_ground_truth" in uri.rpartition("/")[2]:
        raise UserError(
            f"{shown(uri)}: its numbers are the devkit's ILSVRC2012_ID, not class indices; "
            "give a file of names and WordNet ids instead"
        )
    named = None
    with _text(uri) as text:
        form = next((form for ending, form in _FORMS.items() if uri.lower().endswith(ending)), _plain)
        try:
            for number, (name, label) in enumerate(form(text), 1):
                if named is not None and named != (name is not None):
                    raise LabelError("some lines have an image name and some have not")
                named = name is not None
                try:
                    yield Line(name if folders or not name else name.rpartition("/")[2], space.index(label))
                except LabelError as error:
                    raise LabelError(f"label {number}: {error}") from None
        except UnicodeDecodeError:
            raise UserError(f"{shown(uri)}: not a UTF-8 text file") from None
        except (LabelError, csv.Error) as error:
            raise UserError(f"{shown(uri)}: {error}") from None


def label_of(image: str, labels: Mapping[str | None, int]) -> int | None:
    """The label of an image's file name, which a labels file may give without the extension."""
    found = labels.get(image)
    return labels.get(image.rpartition(".")[0]) if found is None else found


def _csv(text: io.TextIOWrapper) -> Iterator[tuple[str | None, str]]:
    name_column, label_column = 0, 1
    for number, row in enumerate(row for row in csv.reader(_lines(text)) if any(cell.strip() for cell in row)):
        if number == 0:
            names, labels = _columns(row, NAME_HEADERS), _columns(row, LABEL_HEADERS)
            if labels:
                name_column, label_column = (names or [-1])[0], labels[0]
                continue
            if names:
                raise LabelError(f"its columns are {', '.join(row)}; name the one of the labels 'label'")
            if len(row) == 1:
                name_column, label_column = -1, 0
        if label_column >= len(row):
            raise LabelError(f"row {number + 1} has {len(row)} columns, too few for a label")
        label = row[label_column].strip()
        yield None if name_column < 0 else row[name_column].strip(), _without_boxes(label)


def _jsonl(text: io.TextIOWrapper) -> Iterator[tuple[str | None, str]]:
    for number, line in enumerate((line for line in _lines(text) if line.strip()), 1):
        fields = _fields(line)
        names, labels = _columns(list(fields), NAME_HEADERS), _columns(list(fields), LABEL_HEADERS)
        if not (names and labels):
            raise LabelError(f"line {number} is no object with a file name and a label")
        values = list(fields.values())
        yield str(values[names[0]]), str(values[labels[0]])


def _fields(line: str) -> dict[str, object]:
    """An object on a line of JSON; empty for anything else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _columns(names: Iterable[str], wanted: Sequence[str]) -> list[int]:
    """Places among `names` of those that are wanted, the first wanted first."""
    headers = [re.sub(r"[^a-z]", "", name.lower()) for name in names]
    return [headers.index(header) for header in wanted if header in headers]


def _plain(text: io.TextIOWrapper) -> Iterator[tuple[str | None, str]]:
    for line in _lines(text):
        found = _NAME_AND_LABEL.fullmatch(line.strip())
        if found:
            yield found[1], _without_boxes(found[2])
        elif line.strip():
            yield None, line.strip()


_FORMS = {".csv": _csv, ".jsonl": _jsonl}


def _text(uri: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(SteadyFile(uri), 1 << 20), encoding="utf-8-sig", newline="")


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise LabelError(f"a line is longer than {MAX_LINE:,} characters")
        yield line


def _without_boxes(label: str) -> str:
    """A label without what data sets for localisation put behind it."""
    found = _WNID_AND_BOXES.fullmatch(label)
    return found[1] if found else label.partition("\t")[0]
