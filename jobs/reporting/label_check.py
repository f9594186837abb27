"""Whether answers and labels fit each other: by the confusion counts, whether other labels explain the answers far better."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jobs.pipeline.labels import BY_NEXT, BY_NUMBER, BY_ORDER, BY_PREVIOUS

LEAST = 30  # Labelled images below which nothing is said
MOST_CLASSES = 2_000  # Classes above which no permutation is sought: it takes memory by their square
A_CLASS = 10  # Labelled images a class that a permutation takes to be believed

NEAR = 0.8  # Of what the best order of the classes explains, the share that a simple mistake must explain to be told instead


def doubt(answers: pa.Table, names: Sequence[str], numbered: bool = True) -> str | None:
    """What makes the labels doubtful, in one line with the figures; None where nothing does.

    answers: images by label and prediction, as they are counted. names: of the checkpoint's classes.
    numbered: whether labels were read as numbers, which they can be counted otherwise.
    """
    label, prediction, images = (_integers(answers[name]) for name in ("label", "prediction", "images"))
    kept = (label >= 0) & (prediction >= 0)  # an image that was not classified says nothing of its label
    top1 = "top-1" if kept.sum() == (label >= 0).sum() else "top-1 of the images that could be read"
    label, prediction, images = label[kept], prediction[kept], images[kept]
    total, held = int(images.sum()), len(np.unique(label))
    classes = max(len(names), *(int(each.max(initial=0)) + 1 for each in (label, prediction)))
    if total < LEAST or held < 2:
        return None

    def right(relabelled: np.ndarray) -> float:
        return float(images[relabelled == prediction].sum() / total)

    given, best = right(label), 0.0
    most = np.zeros(classes, np.int64)
    np.maximum.at(most, label, images)  # whatever a label stood for, no more of its images were right
    far = _far_better(float(most.sum() / total), given, total)
    if far and classes <= MOST_CLASSES and total >= A_CLASS * held:
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]  # takes a while

        confusion = np.zeros((classes, classes))
        confusion[label, prediction] = images
        mapped = linear_sum_assignment(confusion + 1e-9 * np.eye(classes), maximize=True)[1]  # most images are right
        best = right(mapped[label])
    for way, option, counted in _others(classes):
        found = right(counted[label])
        if _far_better(found, given, total) and found >= NEAR * best:
            told = f"{top1} is {given:.1%}, and {found:.1%} if {way}: check the labels"
            helps = numbered and not (option == BY_ORDER and held < classes)
            return f"{told}, or pass --labels {option}" if helps else told
    if best >= 0.5 and _far_better(best, given, total):
        moved = next(each for each in np.unique(label) if mapped[each] != each)
        example = f"{_name(names, moved)} is mostly answered {_name(names, mapped[moved])}"
        return f"{top1} is {given:.1%}, and {best:.1%} if the classes had another order ({example}): check the labels"
    if given <= 1 / classes + 2 * math.sqrt((1 - 1 / classes) / classes / total):
        told = f"{top1} is {given:.1%}, no better than chance among {classes:,} classes"
        return f"{told}: check that the labels are of this checkpoint"
    return None


def _others(classes: int) -> list[tuple[str, str, np.ndarray]]:
    """Mistakes in counting that are often made: in words, the option that mends it, and what each label would be."""
    numbers = np.arange(classes)
    by_text = np.array(sorted(range(classes), key=str))
    return [
        ("each label were one higher", BY_NEXT, numbers + 1),
        ("each label were one lower", BY_PREVIOUS, numbers - 1),
        ("classes were counted in the order of their numbers as text (0, 1, 10, 11, 2)", BY_ORDER, np.argsort(by_text)),
        ("labels were numbers and not places in text order", BY_NUMBER, by_text),
    ]


def _far_better(other: float, given: float, total: int) -> bool:
    """Whether another share of right answers is beyond chance, and leaves half of the wrong ones or doubles the right ones."""
    deviation = math.sqrt((other * (1 - other) + given * (1 - given)) / total)
    return other - given > 3 * deviation and (1 - other <= (1 - given) / 2 or other >= 2 * given)


def _integers(column: pa.ChunkedArray) -> np.ndarray:
    """A column, with -1 for null; Arrow's own ways import pandas."""
    return np.array([-1 if value is None else value for value in column.to_pylist()], np.int64)


def _name(names: Sequence[str], index: int) -> str:
    return repr(names[index]) if index < len(names) else str(index)
