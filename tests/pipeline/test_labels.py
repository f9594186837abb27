"""Labels: WordNet ids, indices and names map to the checkpoint's classes, or are refused."""

import pytest

from jobs.pipeline.labels import LabelSpace, says_labels
from tests.pipeline.corpus import CLASS_NAMES, WNIDS
from vit_actor.errors import UserError

IMAGENET = LabelSpace(tuple(CLASS_NAMES))
ANIMALS = LabelSpace(("tench, Tinca tinca", "crane", "Great_White", "crane", "maillot, tank suit", "maillot"))
SWAPPED = LabelSpace(("2", "1", "0"))  # Names that look like other numbers
OTHERS = LabelSpace(("goldfish", *CLASS_NAMES[1:]))  # A landmark of ImageNet-1k's in another place


def test_wordnet_ids_are_the_thousand_in_sorted_order() -> None:
    assert len(set(WNIDS)) == 1000
    assert sorted(WNIDS) == WNIDS
    assert (WNIDS[0], WNIDS[207], WNIDS[999]) == ("n01440764", "n02099601", "n15075141")  # tench, golden retriever, tissue
    assert [IMAGENET.index(wnid) for wnid in WNIDS] == list(range(1000))


NAMES = {"tench, Tinca tinca": 0, "tinca TINCA": 0, "tench": 0, "great white": 2, "tank_suit": 4, "maillot": 5, "3": 3, " 0\n": 0}


def test_names_match_whole_then_plain_then_as_a_synonym_then_as_an_index() -> None:
    assert {name: ANIMALS.index(name) for name in NAMES} == NAMES
    assert SWAPPED.index("1") == 1  # the name and the number say the same
    assert [LabelSpace(SWAPPED.class_names, reading).index("2") for reading in ("by-name", "by-number")] == [0, 2]


@pytest.mark.parametrize(
    ("said", "columns"),
    [
        (
            True,
            "label labels CLASS class_id classId classname class-name json.label_name category target name synset wnid label2",
        ),
        (False, "prediction pred predicted_label output output_class top1 top1_label score model_name PredictionString caption"),
        (False, "filename width json.caption surname classified"),
    ],
)
def test_a_column_says_labels_by_the_words_in_its_name(said: bool, columns: str) -> None:
    assert {column: says_labels(column) for column in columns.split()} == dict.fromkeys(columns.split(), said)


@pytest.mark.parametrize(
    ("space", "label", "says"),
    [
        (ANIMALS, "crane", "fits classes 1, 3"),
        (ANIMALS, "6", "outside the checkpoint's classes 0-5"),
        (ANIMALS, "-1", "no class of the checkpoint"),
        (ANIMALS, "dog", "'dog' is no class of the checkpoint"),
        (ANIMALS, "n01440764", "this one has 6 classes, not 1000"),
        (ANIMALS, "", "no class"),
        (IMAGENET, "n00000001", "n00000001 is not one of"),
        (OTHERS, "n01440764", "the checkpoint's classes are not ImageNet-1k's in their order"),
        (SWAPPED, "2", "'2' is the name of class 0 and the number of class 2; pass --labels by-name or"),
    ],
)
def test_what_is_no_one_class_is_refused(space: LabelSpace, label: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        space.index(label)


def test_class_names_in_another_order_are_looked_up_and_those_made_unique_by_a_suffix_fit_in_place() -> None:
    """The hub's ImageNet-1k calls its second crane "crane2", for its class names must differ."""
    space = LabelSpace(("cat", "dog", "Arctic fox, white fox"))
    assert space.translate(["white fox", "cat"]) == (2, 0)
    assert LabelSpace(tuple("0123456789")).translate([str(i) for i in range(10)]) == tuple(range(10))
    assert ANIMALS.translate(["tench", "crane", "great white", "crane2", "maillot, tank suit", "maillot"]) == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("names", "culprit"),
    [
        (["crane", "tench", "great white", "x"], "'crane'|'tench'"),  # ambiguous ones, and one in another place
        (["apple", "pear", "plum"], "'apple'"),
        (["tench", "crane", "x", "y"], "class 2, 'x'"),
        (["tench", "crane", "great white", "crane2", "tank suit", "maillot", "x"], "class 6, 'x'"),
    ],
)
def test_class_names_that_are_other_classes_are_refused(names: list[str], culprit: str) -> None:
    with pytest.raises(UserError, match=culprit):
        ANIMALS.translate(names)
