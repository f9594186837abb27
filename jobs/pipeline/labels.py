"""What a data set calls a class -> the checkpoint's class index: WordNet ids, indices and names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vit_actor.errors import UserError

WNID = re.compile(r"n[0-9]{8}")
WNID_SUFFIX = re.compile(r".*_(n[0-9]{8})\.[^.]+")
"""How the hub's copy of ImageNet names its files: ILSVRC2012_val_00000001_n01751748.JPEG."""
_INDEX = re.compile(r"[0-9]{1,9}")


class LabelError(UserError):
    """A label that is no class of the checkpoint, or no label at all."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a checkpoint, by index, in the words of its id2label.

    Names may repeat (ImageNet-1k has two cranes); such a name alone identifies no class.
    """

    class_names: tuple[str, ...]

    def index(self, label: str) -> int:
        """The class index of a name, a WordNet id or a decimal index, tried in that order.

        A name matches whole, else regardless of case and of what is neither letter nor digit, else as one of a class's
        comma-separated synonyms. WordNet ids are in ImageNet-1k's order, which is theirs sorted.
        Raises LabelError for what is none of these, fits several classes, or lies outside the checkpoint's classes.
        """
        label = label.strip()
        found = self.matches(label)
        if len(found) == 1:
            return found[0]
        if found:
            raise LabelError(f"label {quoted(label)} fits classes {', '.join(map(str, found))}; use an index or a WordNet id")
        if WNID.fullmatch(label):
            if len(self.class_names) != 1000:
                raise LabelError(
                    f"WordNet id {label} needs an ImageNet-1k checkpoint; this one has {len(self.class_names)} classes, not 1000"
                )
            raise LabelError(f"WordNet id {label} is not one of ImageNet-1k's 1000 classes")
        if _INDEX.fullmatch(label):
            raise LabelError(f"label {label} is outside the checkpoint's classes {self.range}")
        raise LabelError(
            f"label {quoted(label)} is no class of the checkpoint; use its names, indices {self.range} or WordNet ids"
        )

    def matches(self, label: str) -> list[int]:
        """Every class the label can mean, in order; empty if none."""
        exact, plain, synonyms = _names(self.class_names)
        found = exact.get(label) or plain.get(_plain(label)) or synonyms.get(_plain(label))
        if found:
            return found
        if WNID.fullmatch(label):
            return [_wnids()[label]] if len(self.class_names) == 1000 and label in _wnids() else []
        if _INDEX.fullmatch(label) and int(label) < len(self.class_names):
            return [int(label)]
        return []

    def how_sure(self, label: str) -> int:
        """2 if the label is one class by a name or a WordNet id, 1 if only by a number, 0 if it is none or several."""
        if len(self.matches(label)) != 1:
            return 0
        exact, plain, synonyms = _names(self.class_names)
        named = label in exact or _plain(label) in plain or _plain(label) in synonyms
        return 2 if named or WNID.fullmatch(label) else 1

    def translate(self, names: Sequence[str]) -> tuple[int, ...]:
        """Class indices for a data set's own class names (a Hugging Face ClassLabel), in its order.

        Names that each identify one class are looked up, so order and number may differ from the checkpoint's.
        Otherwise the two lists must be the same classes in the same order: at least half of the names match their
        position and none matches only another. This is how ImageNet-1k fits, whose second crane the hub's data set
        has to call "crane2" because ClassLabel names are unique.
        Raises LabelError if neither holds.
        """
        found = [self.matches(name) for name in names]
        if all(len(classes) == 1 for classes in found):
            return tuple(classes[0] for classes in found)
        elsewhere = [i for i, classes in enumerate(found) if classes and i not in classes]
        unknown = [i for i, classes in enumerate(found) if not classes]
        beyond = [i for i in unknown if i >= len(self.class_names)]
        if elsewhere or beyond or 2 * len(unknown) > len(names):
            i = (elsewhere or beyond or unknown)[0]
            raise LabelError(f"the data set's class {i}, {quoted(names[i])}, does not fit the checkpoint's classes {self.range}")
        return tuple(range(len(names)))

    def fewer(self, classes: Iterable[int]) -> tuple[int, ...] | None:
        """Some classes in ascending order; None if there are none of them, or all."""
        some = tuple(sorted(set(classes)))
        return some if 0 < len(some) < len(self.class_names) else None

    @property
    def range(self) -> str:
        return f"0-{len(self.class_names) - 1}"


def quoted(text: str) -> str:
    """The text in quotes, cut to what a line has room for."""
    return repr(text) if len(text) <= 80 else f"{text[:60]!r}... ({len(text):,} characters)"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


@lru_cache(maxsize=4)
def _names(class_names: tuple[str, ...]) -> tuple[dict[str, list[int]], dict[str, list[int]], dict[str, list[int]]]:
    """Class indices by exact name, by plain name and by plain synonym."""
    exact, plain, synonyms = defaultdict(list), defaultdict(list), defaultdict(list)
    for i, name in enumerate(class_names):
        exact[name].append(i)
        plain[_plain(name)].append(i)
        for synonym in {_plain(part) for part in name.split(",")}:
            synonyms[synonym].append(i)
    return dict(exact), dict(plain), dict(synonyms)


@lru_cache(maxsize=1)
def _wnids() -> dict[str, int]:
    """The 1,000 WordNet ids of ImageNet-1k (ILSVRC 2012), sorted; their positions are the class indices."""
    ids = Path(__file__).with_name("imagenet_wnids.txt").read_text().split()
    return {wnid: i for i, wnid in enumerate(ids)}
