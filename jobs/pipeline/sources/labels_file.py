"""Labels of a flat folder in a text file: one line an image."""

import csv
import hashlib
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import NamedTuple

from pyarrow.fs import FileType

from jobs.pipeline.labels import WNID, Beside, LabelError, Readings, composed
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, METADATA, is_image
from jobs.storage.address import below, shown
from jobs.storage.files import SteadyFile, look
from vit_actor.errors import UserError

_NAME_AND_LABEL = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_EXTENSIONS))}))[ \t,;]+(.+)", re.IGNORECASE)
_WNID_AND_BOXES = re.compile(rf"({WNID.pattern})\s.*")
NAME_HEADERS = ("filename", "imageid", "image", "imagename", "path", "file", "name", "id", "key")
LABEL_HEADERS = ("label", "labels", "class", "cls", "classid", "wnid", "synset", "predictionstring", "target", "category")
"""Of CSV columns, in small letters and without what is none; the first that is there counts."""
MAX_LINE = 2**20  # Characters a line may have
type _Row = tuple[str | None, str, dict[str, str]]  # The name of an image, its label, and what else the row has, by column


class Line(NamedTuple):
    """The name of an image, None where lines go by the images' order, and its class index."""

    name: str | None
    label: int


def digest_of(uri: str) -> str:
    """SHA-256 of a labels file. Raises UserError where it cannot be read."""
    with SteadyFile(uri) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def metadata_of(folder: str) -> str | None:
    """The file beside the images of a folder that has their labels as `datasets` keeps them; None where it has none.

    Raises UserError where there are two.
    """
    found = []
    for name in METADATA:
        uri = below(folder, name)
        if look(uri).type != FileType.File:
            continue
        with _text(uri) as text, suppress(LabelError, UnicodeDecodeError, csv.Error):
            first = next(_lines(text), "")
            columns = next(csv.reader([first]), []) if name.endswith(".csv") else _fields(first)
            if _columns(columns, LABEL_HEADERS) and _columns(columns, NAME_HEADERS):
                found.append(uri)
    if len(found) > 1:
        raise UserError(f"{shown(folder)}: labels in {' and in '.join(METADATA)}; pass --labels with the path of one of them")
    return found[0] if found else None


def read_labels(uri: str, readings: Readings) -> Iterator[Line]:
    """The lines of a labels file, as a stream: all `name label` or all just `label`.

    A table has columns between commas, semicolons, tabs or bars, told by a heading (NAME_HEADERS, LABEL_HEADERS), else, in a
    .csv or .tsv, name and label, or label alone; a .jsonl file has an object a line with such keys; any other file has the name,
    white space, and the label. What follows a WordNet id or a tab, such as boxes, is ignored. Labels are class names, indices or
    WordNet ids. Lines with a label alone are in the order of the images' sorted names.
    Raises UserError for an unreadable file, a label that is no class of the checkpoint, labels that can be read in two ways, and
    for the ILSVRC devkit's ILSVRC2012_validation_ground_truth.txt, whose numbers count the classes in an order of their own.
    """
    if "validation_ground_truth" in uri.rpartition("/")[2]:
        raise UserError(
            f"{shown(uri)}: its numbers are the devkit's ILSVRC2012_ID, not class indices; "
            "give a file of names and WordNet ids instead"
        )
    named, beside = None, Beside(readings.space, lambda column: _header(column) in LABEL_HEADERS)
    with _text(uri) as text:
        form = _jsonl if uri.lower().endswith((".jsonl", ".ndjson")) else partial(_table_or_plain, uri.lower())
        try:
            for number, (name, label, others) in enumerate(form(text), 1):
                if named is not None and named != (name is not None):
                    raise LabelError("some lines have an image name and some have not")
                named = name is not None
                try:
                    index = readings.index(label)
                except LabelError as error:
                    raise LabelError(f"label {number}: {error}") from None
                beside.add(label, index, others)
                yield Line(name, index)
            beside.check(lambda column: f"remove {column!r}, or the column of the labels")
        except UnicodeDecodeError:
            raise UserError(f"{shown(uri)}: not a UTF-8 text file") from None
        except (LabelError, csv.Error) as error:
            raise UserError(f"{shown(uri)}: {error}") from None


class Labels:
    """The labels of images by their names, which a labels file may give without folders and without the extension.

    used: lines that an image was found for, by their paths or names. Raises UserError for two labels of one image.
    """

    def __init__(self, uri: str, lines: Iterable[Line | None]) -> None:
        self._by_path: dict[str, int] = {}
        self._by_name: dict[str, int | None] = {}
        self.used: set[str] = set()
        for line in filter(None, lines):
            if line.name is None:
                raise UserError(f"{shown(uri)}: its lines have no names; give each line the name of its image")
            path = posixpath.normpath(composed(line.name)).lstrip("/")
            if self._by_path.setdefault(path, line.label) != line.label:
                raise UserError(f"{shown(uri)}: two different labels for {line.name}")
            name = _last(path)
            self._by_name[name] = line.label if self._by_name.get(name, line.label) == line.label else None

    def of(self, image: str, *, folders: bool = False) -> int | None:
        """The label of an image by its path; None without. folders: whether those of a path must be in the file too.

        Raises LabelError where the file has several images of that name in other folders.
        """
        image = posixpath.normpath(composed(image))
        name = _last(image)
        for path in (image, image.rpartition(".")[0] if "." in name else image):
            if path in self._by_path:
                self.used.add(path)
                return self._by_path[path]
        for key in () if folders else (name, name.rpartition(".")[0]):
            if key in self._by_name:
                label = self._by_name[key]
                if label is None:
                    raise LabelError(f"the labels file has several images {key}, in other folders, with different labels")
                self.used.add(key)
                return label
        return None

    def unused(self) -> list[str]:
        """Names that no image was found for."""
        return [path for path in self._by_path if path not in self.used and _last(path) not in self.used]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _table_or_plain(uri: str, text: io.TextIOWrapper) -> Iterator[_Row]:
    lines = (line for line in _lines(text) if line.strip())
    first = next(lines, "")
    if first.lstrip().startswith(("{", "[")):
        raise LabelError("looks like JSON; give a .jsonl file with one object a line, or a .csv")
    every = chain([first] if first else [], lines)
    for delimiter in ",;\t|":
        heading = next(csv.reader([first], delimiter=delimiter), [])
        if _columns(heading, LABEL_HEADERS) or (len(heading) > 1 and _columns(heading, NAME_HEADERS)):
            return _table(every, delimiter)
    if uri.endswith((".csv", ".tsv")):
        rows = {delimiter: next(csv.reader([first], delimiter=delimiter), [""]) for delimiter in ",;\t|"}
        fitting = [d for d, row in rows.items() if len(row) == 2 and row[1].strip() and (is_image(row[0]) or "." not in row[0])]
        alone = all(len(row) == 1 for row in rows.values())
        if len(fitting) != 1 and not alone:
            raise LabelError("its columns are not clear; give it a heading such as filename,label")
        return _table(every, fitting[0] if fitting else ",", heading=False)
    return _plain(every)


def _table(lines: Iterator[str], delimiter: str, *, heading: bool = True) -> Iterator[_Row]:
    names, labels, headers = [0], [1], list[str]()
    for number, row in enumerate(row for row in csv.reader(lines, delimiter=delimiter) if any(cell.strip() for cell in row)):
        if number == 0 and heading:
            headers = row
            names, labels = _columns(row, NAME_HEADERS), _columns(row, LABEL_HEADERS)
            if not labels:
                raise LabelError(f"its columns are {', '.join(row)}; name the one of the labels 'label'")
            if not names and len(row) > 1:
                raise LabelError(f"its columns are {', '.join(row)}; name the one of the images 'filename'")
            continue
        if number == 0:
            headers = [""] * len(row)
            names, labels = ([], [0]) if len(row) == 1 else ([0], [1])
        width = len(headers)
        if len(row) != width and not (len(row) > width and not any(cell.strip() for cell in row[width:])):
            fewer = "too few for a label" if labels[0] >= len(row) else f"others {width}"
            raise LabelError(f"row {number + 1} has {len(row)} columns, {fewer}")
        name = row[names[0]].strip() if names else None
        others = {headers[i]: row[i].strip() for i in range(width) if i not in (*names[:1], labels[0])}
        yield name, _without_boxes(row[labels[0]].strip()), others


def _jsonl(text: io.TextIOWrapper) -> Iterator[_Row]:
    for number, line in enumerate((line for line in _lines(text) if line.strip()), 1):
        fields = {name: str(value) for name, value in _fields(line).items()}
        names, labels = _columns(fields, NAME_HEADERS), _columns(fields, LABEL_HEADERS)
        if not (names and labels):
            raise LabelError(f"line {number} is no object with a file name and a label")
        values = list(fields.values())
        others = {name: value for i, (name, value) in enumerate(fields.items()) if i not in (names[0], labels[0])}
        yield values[names[0]], values[labels[0]], others


def _fields(line: str) -> dict[str, object]:
    """An object on a line of JSON; empty for anything else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _columns(names: Iterable[str], wanted: Sequence[str]) -> list[int]:
    """Places among `names` of those that are wanted, the first wanted first."""
    headers = [_header(name) for name in names]
    return [headers.index(header) for header in wanted if header in headers]


def _header(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _plain(lines: Iterator[str]) -> Iterator[_Row]:
    for line in lines:
        found = _NAME_AND_LABEL.fullmatch(line.strip())
        if found:
            yield found[1], _without_boxes(found[2]), {}
        else:
            yield None, line.strip(), {}


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
