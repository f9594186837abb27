"""What a data set calls a class -> the checkpoint's class index, and how that was read: by name, WordNet id or number."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from jobs.storage.address import shown
from vit_actor.errors import UserError

WNID = re.compile(r"n[0-9]{8}")
WNID_SUFFIX = re.compile(r".*_(n[0-9]{8})\.[^.]+")
"""How the hub's copy of ImageNet names its files: ILSVRC2012_val_00000001_n01751748.JPEG."""
_INDEX = re.compile(r"[0-9]{1,9}")
NO_LABELS = "none"
BY_NAME, BY_ORDER, BY_FOLDER = "by-name", "by-order", "by-folder"
BY_NUMBER, BY_NEXT, BY_PREVIOUS = "by-number", "by-number+1", "by-number-1"
OFFSETS = {BY_NUMBER: 0, BY_NEXT: 1, BY_PREVIOUS: -1}  # What is added to a number to give its class
READINGS = (BY_NAME, *OFFSETS, BY_ORDER, BY_FOLDER)
NAMES, WNIDS, NUMBERS = "class names", "WordNet ids", "class numbers"  # Ways to read a label
BACKGROUND = {
    *("background", "bg", "none", "null", "dummy", "empty", "nothing"),
    *("unlabeled", "unlabelled", "no class", "n a", "void"),
}
"""What checkpoints call a class 0 that data sets do not count."""
_LABELS = re.compile(r"(label|class|cls|category|categories|target|name|synset|wnid)(s|es|names?|ids?)?")
_ANSWERS = re.compile(r"pred\w*|outputs?|top|scores?|models?|guess\w*|logits?|prob\w*|confidences?")
"""Words in the names of columns, in small letters: of labels, and of what a model answered."""
LANDMARKS = {"goldfish": 1, "ostrich": 9, "golden retriever": 207, "tiger cat": 282, "zebra": 340, "toilet tissue": 999}
"""Some of ImageNet-1k's names, to tell a checkpoint whose 1,000 classes are others or in another order."""


class LabelError(UserError):
    """A label that is no class of the checkpoint, or no label at all."""


def asked(labels: str | None) -> tuple[bool, str, str | None]:
    """What --labels says (None, "none", READING, READING:WHERE or WHERE): whether there are labels; how they are to be read, one
    of READINGS, "" for none; and the file, column or member that they are in, None to look for one.

    Raises UserError for a reading that there is not.
    """
    reading, colon, where = (labels or "").partition(":")
    if reading in READINGS and (colon or reading != BY_FOLDER):
        return True, reading, where or None
    if reading.startswith("by-"):
        raise UserError(f"--labels {labels}: no such way; there are {', '.join(READINGS)}:<level>, each but the last with :FILE")
    return labels != NO_LABELS, "", None if labels == NO_LABELS else labels


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a checkpoint, by index, in the words of its id2label.

    Names may repeat (ImageNet-1k has two cranes); such a name alone identifies no class.
    reading: how labels are to be read, one of READINGS; "" as they say themselves.
    given: the file or column that has them, if there is one, as --labels would have it.
    """

    class_names: tuple[str, ...]
    reading: str = ""
    given: str | None = None

    def way(self, reading: str) -> str:
        """The option that has labels read so."""
        return f"--labels {reading}" + (f":{shown(self.given)}" if self.given else "")

    def index(self, label: str) -> int:
        """The class index of a name, a WordNet id or a decimal index; see read."""
        return self.read(label)[0]

    def read(self, label: str) -> tuple[int, str]:
        """(class index, way: NAMES, WNIDS or NUMBERS) of a label.

        A name matches whole, else regardless of case and of what is neither letter nor digit, else as one of a class's
        comma-separated synonyms. WordNet ids are in ImageNet-1k's order, which is theirs sorted.
        Raises LabelError for what is none of these, fits several classes, is one class by name and another by number, or lies
        outside the checkpoint's classes.
        """
        label = composed(label.strip())
        named = [] if self.reading in OFFSETS else self._named(label)
        index = int(label) + OFFSETS.get(self.reading, 0) if self.reading != BY_NAME and _INDEX.fullmatch(label) else None
        number = index if index is not None and 0 <= index < len(self.class_names) else None
        if named and number is not None and named != [number]:
            raise LabelError(
                f"label {quoted(label)} is the name of class {named[0]} and the number of class {number}; "
                f"pass {self.way(BY_NAME)} or {self.way(BY_NUMBER)}"
            )
        if len(named) == 1:
            return named[0], WNIDS if WNID.fullmatch(label) else NAMES
        if number is not None:
            return number, NUMBERS
        if named:
            raise LabelError(f"label {quoted(label)} fits classes {', '.join(map(str, named))}; use an index or a WordNet id")
        if index is not None:
            counted = f"label {label}" + (f" by {self.reading}" if OFFSETS.get(self.reading) else "")
            from_one = int(label) == len(self.class_names) and self.reading != BY_PREVIOUS
            fix = f"; pass {self.way(BY_PREVIOUS)} if the data counts classes from 1" if from_one else ""
            raise LabelError(f"{counted} is outside the checkpoint's classes {self.range}{fix}")
        if not WNID.fullmatch(label):
            raise LabelError(
                f"label {quoted(label)} is no class of the checkpoint; use its names, indices {self.range} or WordNet ids"
            )
        if len(self.class_names) != 1000:
            others = f"this one has {len(self.class_names)} classes, not 1000"
            raise LabelError(f"WordNet id {label} needs an ImageNet-1k checkpoint; {others}")
        if label not in _wnids():
            raise LabelError(f"WordNet id {label} is not one of ImageNet-1k's 1000 classes")
        raise LabelError(f"WordNet id {label}: the checkpoint's classes are not ImageNet-1k's in their order; use class names")

    def how_sure(self, label: str) -> int:
        """2 if the label is one class by a name or a WordNet id, 1 if only by a number, 0 if it is none or several."""
        try:
            return 1 if self.read(label)[1] == NUMBERS else 2
        except LabelError:
            return 0

    def translate(self, names: Sequence[str]) -> tuple[int, ...]:
        """Class indices for a data set's own class names (a Hugging Face ClassLabel), in its order.

        Names that each identify one class are looked up, so order and number may differ from the checkpoint's.
        Otherwise the two lists must be the same classes in the same order: nine of ten names match their position and none
        matches only another. This is how ImageNet-1k fits, whose second crane the hub's data set has to call "crane2" because
        ClassLabel names are unique. Names that are numbers must be those of their positions.
        Raises LabelError if none holds.
        """
        positions = tuple(range(len(names)))
        if self.reading in OFFSETS:
            return tuple(self.index(name) for name in names)
        found = [self._named(composed(name.strip())) for name in names]
        if self.reading != BY_ORDER and all(len(classes) == 1 for classes in found):
            return tuple(index for [index] in found)
        numbers = [int(name) for name in names if _INDEX.fullmatch(name)]
        if self.reading == BY_ORDER or (len(numbers) == len(names) and not any(found)):
            if self.reading != BY_ORDER and (wrong := [i for i in positions if numbers[i] != i]):
                ways = f"{self.way(BY_NUMBER)} for class {names[wrong[0]]}, or {self.way(BY_ORDER)} for class {wrong[0]}"
                raise LabelError(f"the data set's class {wrong[0]} is called {quoted(names[wrong[0]])}: pass {ways}")
            if len(names) > len(self.class_names):
                raise LabelError(f"{len(names):,} classes by order for the checkpoint's {len(self.class_names):,}")
            return positions
        elsewhere = [i for i in positions if found[i] and i not in found[i]]
        unknown = [i for i in positions if not found[i]]
        beyond = [i for i in unknown if i >= len(self.class_names)]
        if elsewhere or beyond or len(unknown) > max(1, len(names) // 10) or len(unknown) == len(names):
            i = (elsewhere or beyond or unknown)[0]
            raise LabelError(
                f"the data set's class {i}, {quoted(names[i])}, does not fit the checkpoint's classes {self.range}; "
                f"pass {self.way(BY_ORDER)} if its integers are the checkpoint's classes all the same"
            )
        return positions

    def landmarks(self) -> list[bool]:
        """Of the names of ImageNet-1k's classes that are looked for, each that the checkpoint has: whether it is in its place."""
        synonyms = _names(self.class_names)[2]
        return [synonyms[name] == [index] for name, index in LANDMARKS.items() if name in synonyms]

    def fewer(self, classes: Iterable[int]) -> tuple[int, ...] | None:
        """Some classes in ascending order; None if there are none of them, or all."""
        some = tuple(sorted(set(classes)))
        return some if 0 < len(some) < len(self.class_names) else None

    @property
    def range(self) -> str:
        return f"0-{len(self.class_names) - 1}"

    def _named(self, label: str) -> list[int]:
        """Every class of that name or WordNet id, in order."""
        exact, plain, synonyms = _names(self.class_names)
        found = exact.get(label) or plain.get(_plain(label)) or synonyms.get(_plain(label)) or []
        if found or len(self.class_names) != 1000 or label not in _wnids() or not all(self.landmarks()):
            return found
        return [_wnids()[label]]


@dataclass
class Readings:
    """How the labels of a data set are read, all in one way. examples: a label by the way it was read."""

    space: LabelSpace
    examples: dict[str, str] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict, repr=False)

    def index(self, label: str) -> int:
        """As LabelSpace.index. Raises LabelError also where the labels so far were read in another way, and for numbers of a
        checkpoint whose class 0 may not count."""
        if label in self.known:
            return self.known[label]
        index, way = self.space.read(label)
        self.examples.setdefault(way, label)
        if NUMBERS in self.examples and len(self.examples) > 1:
            word = next(quoted(example) for other, example in self.examples.items() if other != NUMBERS)
            ways = f"pass {self.space.way(BY_NAME)} or {self.space.way(BY_NUMBER)}"
            raise LabelError(f"labels are names ({word}) and numbers ({quoted(self.examples[NUMBERS])}); {ways}")
        first = self.space.class_names[0]
        if way == NUMBERS and not self.space.reading and any(_plain(part) in BACKGROUND for part in first.split(",")):
            ways = f"pass {self.space.way(BY_NUMBER)} if they do, or {self.space.way(BY_NEXT)}"
            why = f"the checkpoint's class 0 is {quoted(first)}, which data sets may not count"
            raise LabelError(f"label {label} is a number, and {why}; {ways}")
        self.known[label] = index
        return index

    def told(self, where: str) -> str:
        """Where labels come from and how sure that is, in words: 'folder names as WordNet ids, all of which ...'."""
        ways = [way for way in (NAMES, WNIDS, NUMBERS) if way in self.examples]
        if not ways:
            return f"none in {where}, empty or -1 throughout"
        if self.space.reading:
            sure = f"read as --labels {self.space.reading} says"
        elif WNIDS in ways and self.examples[WNIDS] not in self.space.class_names and not any(self.space.landmarks()):
            sure = "in ImageNet-1k's order, which the checkpoint's 1,000 classes are taken to have"
        elif ways == [NUMBERS]:
            sure = f"of {self.space.range}, which no name confirms"
        else:
            sure = "all of which the checkpoint knows"
        return f"{where} as {' and '.join(ways)}, {sure}"


class Beside:
    """Columns beside the labels that say classes too: those called so (says_labels) whose words all are names of classes.

    is_label: whether a column is called like labels: its words count each by itself then, numbers too.
    """

    def __init__(self, space: LabelSpace, is_label: Callable[[str], bool] = lambda _: False) -> None:
        self._space, self._is_label = space, is_label
        self._others: set[str] = set()
        self._differing: dict[str, str] = {}

    def add(self, label: str, index: int, others: Mapping[str, str]) -> None:
        """A label, its class, and the words beside it by column."""
        for column in filter(says_labels, others.keys() - self._others):
            sure, word = self._space.how_sure(others[column]), others[column]
            if sure == 2 or (sure and self._is_label(column)):
                if (other := self._space.index(word)) != index:
                    both = (
                        f"label {quoted(label)} is class {index}, and {quoted(word)} beside it, in {column!r}, is class {other}"
                    )
                    self._differing.setdefault(column, both)
            elif not self._is_label(column):
                self._others.add(column)
                self._differing.pop(column, None)

    def check(self, fix: Callable[[str], str]) -> None:
        """Raises LabelError for a column that says another class than the label. fix: what to do about a column."""
        for column, both in self._differing.items():
            raise LabelError(f"{both}; {fix(column)}")


def says_labels(column: str) -> bool:
    """Whether the name of a column has a word for a label or its name in it, and none for what a model answered."""
    words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", column)]
    return any(map(_LABELS.fullmatch, words)) and not any(map(_ANSWERS.fullmatch, words))


def predict_only(where: str, error: LabelError) -> UserError:
    """What is wrong with the labels at a place, with the way out that is always there."""
    return UserError(f"{where}: {error}; or pass --labels {NO_LABELS} to predict only")


def quoted(text: str) -> str:
    """The text in quotes, cut to what a line has room for."""
    return repr(text) if len(text) <= 80 else f"{text[:60]!r}... ({len(text):,} characters)"


def composed(text: str) -> str:
    """One form of a text that Unicode can write in two: macOS takes accents apart."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", composed(name)).strip().casefold()


@lru_cache(maxsize=4)
def _names(class_names: tuple[str, ...]) -> tuple[dict[str, list[int]], dict[str, list[int]], dict[str, list[int]]]:
    """Class indices by exact name, by plain name and by plain synonym."""
    exact, plain, synonyms = defaultdict(list), defaultdict(list), defaultdict(list)
    for i, name in enumerate(class_names):
        exact[composed(name)].append(i)
        plain[_plain(name)].append(i)
        for synonym in {_plain(part) for part in name.split(",")}:
            synonyms[synonym].append(i)
    return dict(exact), dict(plain), dict(synonyms)


@lru_cache(maxsize=1)
def _wnids() -> dict[str, int]:
    """The 1,000 WordNet ids of ImageNet-1k (ILSVRC 2012), sorted; their positions are the class indices."""
    ids = Path(__file__).with_name("imagenet_wnids.txt").read_text().split()
    return {wnid: i for i, wnid in enumerate(ids)}
