"""Labels that were read wrongly show in the confusion counts, with the option that mends it; a weak model alone does not."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.reporting.label_check import doubt
from jobs.reporting.terminal_table import summary_table
from jobs.reporting.write import write_reports
from tests.jobs.prediction_files import metadata, row, write_file, write_manifest
from tests.jobs.reporting.conftest import page

BY_TEXT = sorted(range(12), key=str)


def counted(classes: int, accuracy: float, read: Callable[[int], int], images: int = 40) -> pa.Table:
    """Counts of a model of so many classes that is right so often. read: the label that is read of an image of a class."""
    random = np.random.default_rng(classes)
    pairs: dict[tuple[int, int], int] = {}
    for truth in range(classes):
        for sure in random.random(images):
            answer = truth if sure < accuracy else int(random.integers(classes))
            if 0 <= read(truth) < classes:
                pairs[read(truth), answer] = pairs.get((read(truth), answer), 0) + 1
    labels, answers = zip(*pairs, strict=True)
    return pa.table({"label": labels, "prediction": answers, "images": list(pairs.values())})


@pytest.mark.parametrize("accuracy", [0.98, 0.7])
@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda truth: truth, None),
        (lambda truth: truth - 1, "each label were one higher: check the labels, or pass --labels by-number\\+1"),
        (lambda truth: truth + 1, "one lower.*--labels by-number-1"),
        (lambda truth: BY_TEXT[truth], "their numbers as text.*--labels by-order"),
        (BY_TEXT.index, "places in text order.*--labels by-number"),
        (lambda truth: (5 * truth + 3) % 12, "another order"),
        (lambda truth: {3: 8, 8: 3, 4: 6, 6: 4}.get(truth, truth), "another order \\('class 3' is mostly answered 'class 8'\\)"),
    ],
)
def test_what_explains_the_answers_far_better_is_told(accuracy: float, read: Callable[[int], int], says: str | None) -> None:
    told = doubt(counted(12, accuracy, read), [f"class {i}" for i in range(12)])
    if says is None or (accuracy < 0.9 and "class 3" in says):
        assert told is None
    else:
        assert told is not None
        assert re.search(rf"top-1 is \d+\.\d%, and \d+\.\d% if .*{says}", told)


@pytest.mark.parametrize("images", [4, 40])  # of four a class, some other count explains thrice as many by chance
def test_a_model_that_guesses_is_told_and_a_weak_one_is_not(images: int) -> None:
    assert "no better than chance among 12 classes" in (doubt(counted(12, 0.0, lambda truth: truth, images), []) or "")
    assert doubt(counted(12, 0.3, lambda truth: truth), []) is None


def test_of_labels_that_are_names_no_other_count_is_offered_and_what_was_not_read_is_said() -> None:
    answers = counted(12, 1.0, lambda truth: truth - 1)
    unread = pa.table({"label": [3], "prediction": pa.array([None], answers["prediction"].type), "images": [7]})
    told = doubt(pa.concat_tables([answers, unread.cast(answers.schema)]), [], numbered=False)
    assert told == "top-1 of the images that could be read is 0.0%, and 100.0% if each label were one higher: check the labels"


def test_of_few_images_nothing_is_said() -> None:
    assert doubt(counted(12, 1.0, lambda truth: truth - 1, images=2), []) is None


def test_terminal_and_page_say_it(tmp_path: Path) -> None:
    write_file(tmp_path, "a.parquet", [row(i % 9, i % 9 + 1) for i in range(90)], metadata())
    write_manifest(tmp_path, images=90)
    summary = write_reports(str(tmp_path))
    assert summary.label_doubt
    assert f"doubtful   {summary.label_doubt}" in summary_table(summary)
    assert "Doubtful labels" in page(tmp_path)
