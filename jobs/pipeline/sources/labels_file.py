"""Labels of images in a text file: one line an image."""

import csv
import hashlib
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from pyarrow.fs import FileType

from jobs.pipeline.labels import WNID, Beside, LabelError, Readings, composed
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, METADATA, is_image
from jobs.storage.address import below, shown
from jobs.storage.files import SteadyFile, look
from vit_actor.errors import UserError

_NAME_AND_LABEL = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_EXTENSIONS))}))[ \t,;]+(.+)", re.IGNORECASE)
_BOXES = re.compile(rf"(?<=^{WNID.pattern})\s.*|\t.*", re.DOTALL)  # What data sets for localisation put behind a label
NAME_HEADERS = ("filename", "imageid", "image", "imagename", "path", "file", "name", "id", "key")
LABEL_HEADERS = ("label", "labels", "class", "cls", "classid", "wnid", "synset", "predictionstring", "target", "category")
"""Of CSV columns, in small letters and without what is none; the first that is there counts."""
DELIMITERS = ",;\t|"
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
    for uri in (below(folder, name) for name in METADATA):
        if look(uri).type == FileType.File:
            with _text(uri) as text, suppress(LabelError, UnicodeDecodeError, csv.Error):
                first = next(_lines(text), "")
                columns = _cells(first, ",") if uri.endswith(".csv") else _fields(first)
                if _columns(columns, LABEL_HEADERS) and _columns(columns, NAME_HEADERS):
                    found.append(uri)
    if len(found) > 1:
        raise UserError(f"{shown(folder)}: labels in {' and in '.join(METADATA)}; pass --labels with the path of one of them")
    return found[0] if found else None


def read_labels(uri: str, readings: Readings) -> Iterator[Line]:
    """The lines of a labels file, as a stream: all `name label` or all just `label`.

    A table has columns between commas, semicolons, tabs or bars, told by a heading (NAME_HEADERS, LABEL_HEADERS), else, in a
    .csv or .tsv, name and label, or label alone; a .jsonl file has an object a line with such keys; any other has a name with its
    extension, white space, and the label. What follows a WordNet id or a tab, such as boxes, is ignored. Labels are class names,
    indices or WordNet ids. Lines with a label alone are in the order of the images' sorted names.
    Raises UserError for an unreadable file, a label that is no class of the checkpoint, labels that can be read in two ways, and
    for the ILSVRC devkit's ILSVRC2012_validation_ground_truth.txt, whose numbers count the classes in an order of their own.
    """
    if "validation_ground_truth" in uri.rpartition("/")[2]:
        way = "give a file of names and WordNet ids instead"
        raise UserError(f"{shown(uri)}: its numbers are the devkit's ILSVRC2012_ID, not class indices; {way}")
    named, beside = None, Beside(readings.space, lambda column: _header(column) in LABEL_HEADERS)
    with _text(uri) as text:
        try:
            for number, (name, label, others) in enumerate(_rows(uri.lower(), text), 1):
                if named not in (None, name is not None):
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

    def __init__(self, uri: str, lines: Iterable[Line]) -> None:
        self._by_path: dict[str, int] = {}
        self._by_name: dict[str, int | None] = {}
        self.used: set[str] = set()
        for name, label in lines:
            if name is None:
                raise UserError(f"{shown(uri)}: its lines have no names; give each line the name of its image")
            path = _normal(name).lstrip("/")
            if self._by_path.setdefault(path, label) != label:
                raise UserError(f"{shown(uri)}: two different labels for {name}")
            last = posixpath.basename(path)
            self._by_name[last] = label if self._by_name.get(last, label) == label else None

    def of(self, image: str, *, folders: bool = False) -> int | None:
        """The label of an image by its path; None without. folders: whether those of a path must be in the file too.

        Raises LabelError where the file has several images of that name in other folders.
        """
        path = _normal(image)
        name = posixpath.basename(path)
        stem = path.rpartition(".")[0] if "." in name else path
        if key := next((key for key in (path, stem) if key in self._by_path), None):
            self.used.add(key)
            return self._by_path[key]
        keys = () if folders else (name, name.rpartition(".")[0])
        key = next((key for key in keys if key in self._by_name), None)
        if key is None:
            return None
        if (label := self._by_name[key]) is None:
            raise LabelError(f"the labels file has several images {key}, in other folders, with different labels")
        self.used.add(key)
        return label

    def unused(self) -> list[str]:
        """Names that no image was found for."""
        return [path for path in self._by_path if path not in self.used and posixpath.basename(path) not in self.used]


def _normal(path: str) -> str:
    return posixpath.normpath(composed(path))


def _rows(uri: str, text: io.TextIOWrapper) -> Iterator[_Row]:
    lines = (line for line in _lines(text) if line.strip())
    if uri.endswith((".jsonl", ".ndjson")):
        return _jsonl(lines)
    first = next(lines, "")
    if first.lstrip().startswith(("{", "[")):
        raise LabelError("looks like JSON; give a .jsonl file with one object a line, or a .csv")
    every = chain([first] if first else [], lines)
    for delimiter in DELIMITERS:
        heading = _cells(first, delimiter)
        if _columns(heading, LABEL_HEADERS) or (len(heading) > 1 and _columns(heading, NAME_HEADERS)):
            return _table(row for row in csv.reader(every, delimiter=delimiter) if any(map(str.strip, row)))
    if not uri.endswith((".csv", ".tsv")):
        return _plain(every)
    cells = {delimiter: _cells(first, delimiter) for delimiter in DELIMITERS}
    pairs = [d for d, row in cells.items() if len(row) == 2 and row[1].strip() and (is_image(row[0]) or "." not in row[0])]
    if len(pairs) != 1 and any(len(row) > 1 for row in cells.values()):
        raise LabelError("its columns are not clear; give it a heading such as filename,label")
    rows = csv.reader(every, delimiter=pairs[0] if pairs else ",")
    return _table((row for row in rows if any(map(str.strip, row))), ["", ""] if pairs else [""])


def _table(rows: Iterator[list[str]], without: list[str] | None = None) -> Iterator[_Row]:
    """without: empty headers of a table that has no heading: of name and label, or of a label alone."""
    headers = without or next(rows)
    names, labels = _columns(headers, NAME_HEADERS), _columns(headers, LABEL_HEADERS)
    if without:
        names, labels = [0][: len(without) - 1], [len(without) - 1]
    elif not labels or (not names and len(headers) > 1):
        what, call = ("images", "filename") if labels else ("labels", "label")
        raise LabelError(f"its columns are {', '.join(headers)}; name the one of the {what} {call!r}")
    width = len(headers)
    for number, row in enumerate(rows, 1 if without else 2):
        if len(row) < width or any(map(str.strip, row[width:])):
            fewer = "too few for a label" if labels[0] >= len(row) else f"others {width}"
            raise LabelError(f"row {number} has {len(row)} columns, {fewer}")
        row[labels[0]] = _BOXES.sub("", row[labels[0]].strip())
        yield _row(headers, list(map(str.strip, row)), names, labels)


def _row(headers: Sequence[str], cells: Sequence[str], names: list[int], labels: list[int]) -> _Row:
    others = {header: cells[i] for i, header in enumerate(headers) if i not in (*names[:1], labels[0])}
    return cells[names[0]] if names else None, cells[labels[0]], others


def _jsonl(lines: Iterator[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        fields = _fields(line)
        names, labels = _columns(fields, NAME_HEADERS), _columns(fields, LABEL_HEADERS)
        if not (names and labels):
            raise LabelError(f"line {number} is no object with a file name and a label")
        yield _row(list(fields), list(map(str, fields.values())), names, labels)


def _plain(lines: Iterator[str]) -> Iterator[_Row]:
    for line in map(str.strip, lines):
        found = _NAME_AND_LABEL.fullmatch(line)
        yield (found[1], _BOXES.sub("", found[2]), {}) if found else (None, line, {})


def _fields(line: str) -> dict[str, object]:
    """An object on a line of JSON; empty for anything else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _columns(names: Iterable[str], wanted: Sequence[str]) -> list[int]:
    """Places among `names` of those that are wanted, the first wanted first."""
    headers = [_header(name) for name in names]
    return [headers.index(header) for header in wanted if header in headers]


def _header(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _text(uri: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(SteadyFile(uri), 1 << 20), encoding="utf-8-sig", newline="")


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise LabelError(f"a line is longer than {MAX_LINE:,} characters")
        yield line
