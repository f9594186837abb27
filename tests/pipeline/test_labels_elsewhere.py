"""Labels against the libraries that people compare with: ours says the same, or refuses, or says that there are none."""

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from torchvision.datasets import ImageFolder

from jobs.pipeline.sources import surveyed
from tests.pipeline import corpus
from tests.pipeline.corpus import CLASS_NAMES, WNIDS, jpeg, labels_of, read_all, refusal

CLASSES = ("ant", "bee", "cat", "dog")
NUMBERED = tuple(f"LABEL_{i}" for i in range(12))
THOUSAND = tuple(f"thing {i}" for i in range(1000))
BACKGROUND = ("background", *THOUSAND)
TWELVE = [str(i) for i in range(12)]

type Files = dict[str, str | bytes]  # Files by path; an empty text is a picture of its own


def tree(folders: list[str], images: int = 3) -> Files:
    return {f"{folder}/{i}.jpg": "" for folder in folders for i in range(images)}


def csv(rows: list[str], heading: str = "file_name,label") -> str:
    return "\n".join([heading, *rows]) + "\n"


def samples(*members: tuple[str, str]) -> bytes:
    """A tar of three samples k0, k1, k2: members by what follows the key; * in a text is the sample's number."""
    with TemporaryDirectory() as folder:
        contents = [
            (f"k{k}.{ending}", text.replace("*", str(k)).encode() or jpeg(k)) for k in range(3) for ending, text in members
        ]
        return corpus.tar(Path(folder) / "x.tar", contents).read_bytes()


def rows(label: Any = None, names: list[str] | None = None, **columns: Any) -> bytes:
    """Parquet of three images. names: of a ClassLabel, as `datasets` stores them."""
    given = {"image": [{"bytes": jpeg(i), "path": None} for i in range(3)], **({} if label is None else {"label": label})}
    table = pa.table({name: pa.array(values) for name, values in (given | columns).items()})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def torchvision(root: Path, split: str) -> dict[str, str]:
    found = ImageFolder(str(root))
    return {Path(path).relative_to(root).as_posix(): found.classes[label] for path, label in found.samples}


def loaded_by_datasets(root: Path, split: str, kind: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows, and the label of each in words."""
    data = datasets.load_dataset(kind, data_dir=str(root), split=split, cache_dir=str(root.parent / "cache"))
    label = data.features["label"]
    for row in data.cast_column("image", datasets.Image(decode=False)):
        yield row, label.int2str(row["label"]) if isinstance(label, datasets.ClassLabel) else str(row["label"])


def imagefolder(root: Path, split: str) -> dict[str, str]:
    found = loaded_by_datasets(root, split, "imagefolder")
    return {Path(row["image"]["path"]).relative_to(root).as_posix(): word for row, word in found}


def parquet(root: Path, split: str) -> dict[str, str]:
    return {f"x.parquet#{i}": word for i, (_, word) in enumerate(loaded_by_datasets(root, split, "parquet"))}


def webdataset(root: Path, split: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.tar")):
        for sample in wds.WebDataset(str(path), shardshuffle=False):
            images = [f"{path.name}/{sample['__key__']}.{field}" for field in sample if field.endswith("jpg")]
            found |= dict.fromkeys(images, sample["cls"].decode())
    return found


NONE = [None] * 3
JPG, CLS = ("jpg", ""), ("cls", "*")
PLAIN = samples(JPG, CLS)
NUMBERS_IN_NUMBERS: Files = {f"{i}/{i % 3}/x.jpg": "" for i in range(10)}
IN_ORDER = [0, 1, 2]
LINES: Files = {"l.txt": "\n".join(TWELVE)}
METADATA = csv([f"{i}.jpg,{CLASSES[i]}" for i in range(3)])
THREE = tree(["."])


@dataclass(frozen=True)
class Layout:
    """expected: the library that says the same, what the refusal says, or our labels in order.

    labels: of --labels, else the file l.*, if there is one.
    """

    files: Files
    expected: Callable[[Path, str], dict[str, str]] | str | Sequence[int | None]
    labels: str | None = None
    classes: tuple[str, ...] = CLASSES


LAYOUTS = {
    "class folders": Layout(tree(["ant", "cat", "dog"]), torchvision),
    "class folders, datasets": Layout(tree(["ant", "cat", "dog"]), imagefolder),
    "WordNet ids": Layout(tree(WNIDS[3:6]), torchvision, classes=tuple(WNIDS)),
    "class folders with others in them": Layout(tree(["ant/by x", "ant/by y", "cat/by x", "dog"]), torchvision),
    "a class called _dog": Layout(tree(["ant", "bee", "_dog"]), torchvision, classes=("ant", "bee", "_dog")),
    "pictures of cameras": Layout({"ant/_DSC1.JPG": "", "bee/_MG_1.jpg": "", "cat/_1.png": "", "cat/._1.png": "x"}, IN_ORDER),
    "ten numbers": Layout(tree(TWELVE[:10]), [i for i in range(10) for _ in range(3)], classes=NUMBERED[:10]),
    "twelve numbers in text order": Layout(
        tree(TWELVE), lambda root, split: numbered(torchvision(root, split)), labels="by-order", classes=NUMBERED
    ),
    "twelve names that are numbers": Layout(
        tree(TWELVE), "by name.*--labels by-name or --labels by-number|by-name", classes=tuple(sorted(TWELVE))
    ),
    "the same by name": Layout(tree(TWELVE), torchvision, labels="by-name", classes=tuple(sorted(TWELVE))),
    "numbers in numbers": Layout(NUMBERS_IN_NUMBERS, "by-folder:1.*or --labels by-folder:2", classes=NUMBERED),
    "the outer numbers": Layout(NUMBERS_IN_NUMBERS, list(range(10)), labels="by-folder:1", classes=NUMBERED),
    "the inner numbers": Layout(NUMBERS_IN_NUMBERS, [i % 3 for i in range(10)], labels="by-folder:2", classes=NUMBERED),
    "names in other names": Layout(tree(["ant/bee", "cat/dog"]), "by-folder:1"),
    "folders without names": Layout(tree(["x", "y", "z"]), "no class of the checkpoint", classes=NUMBERED[:3]),
    "folders without names, by order": Layout(
        tree(["x", "y", "z"]), [0, 0, 0, 1, 1, 1, 2, 2, 2], labels="by-order", classes=NUMBERED[:3]
    ),
    "names and numbers": Layout(tree(["ant", "bee", "2"]), "labels are names .* and numbers"),
    "numbers beside a background": Layout(tree(TWELVE[:3], 1), r"class 0 is 'background'.*by-number\+1", classes=BACKGROUND),
    "numbers without the background": Layout(tree(TWELVE[:3], 1), [1, 2, 3], labels="by-number+1", classes=BACKGROUND),
    "numbers from 1": Layout(tree(["1", "2", "3", "4"], 1), "by-number-1"),
    "numbers from 1, told": Layout(tree(["1", "2", "3", "4"], 1), [0, 1, 2, 3], labels="by-number-1"),
    "splits": Layout(tree(["train/ant", "val/ant"]), "its folders are splits"),
    "one folder of numbers around others": Layout(
        {f"0/{i}/x.jpg": "" for i in IN_ORDER}, "by-folder:1.*or --labels by-folder:2", classes=NUMBERED
    ),
    "a wrapper": Layout(tree(["val/ant", "val/bee", "val/dog"]), [0, 0, 0, 1, 1, 1, 3, 3, 3]),
    "names within numbers": Layout(tree(["fog/1/ant", "fog/2/bee", "snow/1/ant"], 1), [0, 1, 0]),
    "others within numbers": Layout(tree(["0/a", "2/b"], 1), [0, 2], classes=NUMBERED),
    "images beside class folders": Layout({**tree(["ant", "bee"]), "x.jpg": ""}, "also folder 'ant' with images"),
    "a class beside other spellings": Layout(tree(["Ant", "BEE", "cat"]), [0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "classes that differ by case": Layout(tree(["Crane", "crane", "dog"], 1), torchvision, classes=("crane", "Crane", "dog")),
    "a case that fits two": Layout(tree(["CRANE", "dog"], 1), "fits classes 0, 1", classes=("crane", "Crane", "dog")),
    "padded numbers": Layout(tree(["00", "01", "02"]), [0, 0, 0, 1, 1, 1, 2, 2, 2], classes=NUMBERED),
    "digits of other scripts": Layout(tree(["\u0661", "\u0662"]), "no class of the checkpoint", classes=NUMBERED),
    "numbers below 0": Layout(tree(["-1", "0"]), "no class of the checkpoint", classes=NUMBERED),
    "a number too many": Layout(tree(["0", "12"]), "12 is outside .* 0-11; pass --labels by-number-1", classes=NUMBERED),
    "numbers from 1 that begin at 0": Layout(
        tree(["0", "1"]), "label 0 by by-number-1 is outside", labels="by-number-1", classes=NUMBERED
    ),
    "splits of other words": Layout(tree(["training/ant", "evaluation/ant"]), "its folders are splits"),
    "an archive of macOS": Layout({**tree(["ant", "bee"]), "__MACOSX/ant/._0.jpg": "x"}, [0, 0, 0, 1, 1, 1]),
    "a train among vehicles": Layout(tree(["bus", "train"]), torchvision, classes=("bus", "train")),
    "metadata.csv": Layout({**THREE, "metadata.csv": METADATA}, imagefolder),
    "metadata.csv above folders": Layout(
        {**tree(["a", "b"], 1), "metadata.csv": csv(["a/0.jpg,dog", "b/0.jpg,bee"])}, imagefolder
    ),
    "metadata.csv against its folders": Layout(
        {**tree(["ant", "bee"], 1), "metadata.csv": csv(["ant/0.jpg,dog", "bee/0.jpg,bee"])}, "another label for ant/0.jpg"
    ),
    "metadata.csv of captions, by choice unlike datasets": Layout(
        {**tree(["ant", "bee", "cat"], 1), "metadata.csv": csv(["ant/0.jpg,one"], "file_name,caption")}, IN_ORDER
    ),
    "metadata.csv in a class folder": Layout({**tree(["ant", "bee"]), "ant/metadata.csv": METADATA}, "may have the labels"),
    "tabs with a heading": Layout({**THREE, "l.tsv": "image\tlabel\n2.jpg\tant\n1.jpg\tdog\n0.jpg\tbee\n"}, [1, 3, 0]),
    "columns of names that agree": Layout(
        {**THREE, "l.csv": csv([f"{i}.jpg,{i},{CLASSES[i]}" for i in IN_ORDER], "file,label,label_name")}, IN_ORDER
    ),
    "a column of names that differ": Layout(
        {**THREE, "l.csv": csv([f"{i}.jpg,{CLASSES[i]},{i + 1}" for i in IN_ORDER], "file,name,label")},
        "label '1' is class 1, and 'ant' beside it, in 'name', is class 0",
    ),
    "a column of what a model answered": Layout(
        {**THREE, "l.csv": csv([f"{i}.jpg,{CLASSES[i]},{CLASSES[i + 1]}" for i in IN_ORDER], "filename,label,prediction")},
        IN_ORDER,
    ),
    "the same in Parquet": Layout({"x.parquet": rows(IN_ORDER, prediction=list(CLASSES[1:]))}, IN_ORDER),
    "the same in json": Layout({"x.tar": samples(JPG, ("json", '{"label": *, "top1": "dog"}'))}, IN_ORDER),
    "a column in which a name occurs": Layout(
        {**THREE, "l.csv": csv(["0.jpg,0,bee", "1.jpg,1,a big bee", "2.jpg,2,cat"], "file,label,caption")}, IN_ORDER
    ),
    "one-hot columns": Layout({**THREE, "l.csv": csv(["0.jpg,1,0"], "file,ant,bee")}, "name the one of the labels"),
    "an empty label": Layout({**THREE, "l.csv": csv(["0.jpg,", "1.jpg,2"])}, "'' is no class"),
    "several labels": Layout({**THREE, "l.csv": csv(["0.jpg,ant bee", "1.jpg,ant"])}, "'ant bee' is no class"),
    "one line for two images": Layout(
        {"0.jpg": "", "0.png": "", "l.csv": csv(["0,1", "1,2"])}, "the line for 0.png is that of another image too"
    ),
    "JSON of lists": Layout({**THREE, "l.jsonl": '{"file": "0.jpg", "label": [1]}\n'}, "no class"),
    "a heading without images": Layout({**THREE, "l.csv": csv(["a,0", "b,1", "c,2"], "who,label")}, "the images 'filename'"),
    "two columns that differ": Layout(
        {**THREE, "l.csv": csv([f"{i}.jpg,{i},{CLASSES[i + 1]}" for i in range(3)], "id,class,label")},
        "'0' beside it, in 'class', is class 0; remove 'class'",
    ),
    "JSON": Layout({**THREE, "l.json": '{"0.jpg": 0}'}, "looks like JSON"),
    "lines in number order": Layout(
        {**{f"img_{i}.jpg": "" for i in range(12)}, **LINES},
        "img_1.jpg before img_10.jpg|img_11.jpg before img_2.jpg",
        classes=NUMBERED,
    ),
    "lines, of two cases": Layout({"B.jpg": "", "a.jpg": "", "c.jpg": "", "l.txt": "0\n1\n2\n"}, "B.jpg before a.jpg"),
    "lines in one order": Layout({**{f"img_{i:02d}.jpg": "" for i in range(12)}, **LINES}, list(range(12)), classes=NUMBERED),
    "cls": Layout({"x.tar": PLAIN}, webdataset),
    "cls behind a byte order mark": Layout({"x.tar": samples(JPG, ("cls", "\ufeff*\n"))}, IN_ORDER),
    "keys to the first dot": Layout({"x.tar": samples(("input.jpg", ""), ("cls", "*"))}, webdataset),
    "two views of a sample": Layout({"x.tar": samples(("left.jpg", ""), ("right.jpg", ""), ("cls", "*"))}, webdataset),
    "json": Layout({"x.tar": samples(JPG, ("json", '{"label": *, "width": 3}'))}, IN_ORDER),
    "json that differs": Layout({"x.tar": samples(JPG, CLS, ("json", '{"class": 3}'))}, "cls or --labels json.class"),
    "json, told": Layout({"x.tar": samples(JPG, CLS, ("json", '{"class": 3}'))}, [3, 3, 3], labels="json.class"),
    "img2dataset": Layout({"x.tar": samples(JPG, ("json", '{"key": "*", "caption": "a cat"}'), ("txt", "a cat"))}, NONE),
    "captions, some of one word": Layout(
        {"x.tar": samples(JPG, ("txt", "a photo of *")), "y.tar": samples(JPG, ("txt", "cat"))}, NONE * 2
    ),
    "txt that is labels": Layout({"x.tar": samples(JPG, ("txt", "*"))}, IN_ORDER),
    "json of other names": Layout(
        {"x.tar": samples(JPG, ("json", '{"label": 1, "label_name": "ant"}'))},
        "in 'json.label_name', is class 0; pass --labels json.label or --labels json.label_name",
    ),
    "json without a label": Layout({"x.tar": samples(JPG, ("json", '{"annotation": {"label": *}}'))}, NONE),
    "cls of no label": Layout({"x.tar": samples(JPG, ("cls", "-1"))}, NONE),
    "cls of several labels": Layout({"x.tar": samples(JPG, ("cls", "1 2"))}, "'1 2' is no class"),
    "masks beside images": Layout({"x.tar": samples(JPG, ("seg.png", ""), CLS)}, webdataset),
    "another suffix": Layout({"x.tar": samples(JPG, ("label.txt", "*"))}, NONE),
    "tars and a file": Layout({"x.tar": samples(JPG), "l.csv": csv([f"k{i}.jpg,{2 - i}" for i in IN_ORDER])}, [2, 1, 0]),
    "tars and a file, background": Layout(
        {"x.tar": samples(JPG), "l.csv": csv([f"k{i}.jpg,{i}" for i in IN_ORDER])},
        "which data sets may not count",
        classes=BACKGROUND,
    ),
    "tars and a file of bare lines": Layout({"x.tar": samples(JPG), "l.txt": "0\n1\n2\n"}, "its lines have no names"),
    "tars called by class": Layout(
        {f"{name}.tar": PLAIN for name in ("bus", "car", "train", "valve", "dev-board")}, [0, 1, 2] * 5
    ),
    "tars called like splits": Layout({f"{name}.tar": PLAIN for name in ("train-station", "test-bench")}, "may be splits or not"),
    "tars of splits and others": Layout({f"{name}-0.tar": PLAIN for name in ("train", "test", "extra")}, "may be splits or not"),
    "tars of splits in other words": Layout({f"{name}-0.tar": PLAIN for name in ("training", "dev", "eval")}, IN_ORDER),
    "tars of splits": Layout({f"{name}-000.tar": PLAIN for name in ("train", "val")}, IN_ORDER),
    "ClassLabel": Layout({"x.parquet": rows([0, 1, 2], names=["dog", "ant", "cat"])}, parquet),
    "ClassLabel of numbers": Layout(
        {"x.parquet": rows([0, 1, 2], names=sorted(TWELVE))}, "is called '10'.*by-number .*by-order", classes=NUMBERED
    ),
    "ClassLabel of numbers, by number": Layout(
        {"x.parquet": rows([0, 1, 2], names=sorted(TWELVE))}, [0, 1, 10], labels="by-number", classes=NUMBERED
    ),
    "ClassLabel of numbers, by order": Layout(
        {"x.parquet": rows([0, 1, 2], names=sorted(TWELVE))}, IN_ORDER, labels="by-order", classes=NUMBERED
    ),
    "ClassLabel of WordNet ids": Layout({"x.parquet": rows(IN_ORDER, names=WNIDS[5:9])}, [5, 6, 7], classes=THOUSAND),
    "ClassLabel of others": Layout({"x.parquet": rows(IN_ORDER, names=["x", "y", "z"])}, "does not fit"),
    "ClassLabel of others, told": Layout({"x.parquet": rows(IN_ORDER, names=["x", "y", "z"])}, IN_ORDER, labels="label"),
    "ClassLabel in the first file": Layout(
        {"a.parquet": rows(IN_ORDER, names=["dog", "cat", "bee"]), "b.parquet": rows(IN_ORDER)},
        "it has labels in column 'label', and a.parquet has labels in column 'label' with class names",
    ),
    "ClassLabels that differ": Layout(
        {"a.parquet": rows(IN_ORDER, names=["dog", "cat", "bee"]), "b.parquet": rows(IN_ORDER, names=["ant", "bee", "dog"])},
        "the class names of column 'label' are others than in a.parquet",
    ),
    "labels in the first file": Layout(
        {"a.parquet": rows(IN_ORDER), "b.parquet": rows()},
        "b.parquet: it has no label column, and a.parquet has labels in column 'label'; give files that are alike",
    ),
    "tars and a file of a part": Layout({"x.tar": samples(JPG), "l.csv": csv(["k2.jpg,3", "k0.jpg,1"])}, [1, None, 3]),
    "labels in other columns": Layout({"a.parquet": rows(IN_ORDER), "b.parquet": rows(cls=IN_ORDER)}, "in column 'cls'"),
    "names beside numbers": Layout({"x.parquet": rows(IN_ORDER, name=list(CLASSES[:3]))}, IN_ORDER),
    "other names beside numbers": Layout(
        {"x.parquet": rows(IN_ORDER, name=list(CLASSES[1:]))},
        "'bee' beside it, in 'name', is class 1; pass --labels label or --labels name",
    ),
    "ClassLabel beside other names": Layout(
        {"x.parquet": rows(IN_ORDER, names=["dog", "cat", "bee"], word_name=list(CLASSES[:3]))},
        "'ant' beside it, in 'word_name', is class 0; pass --labels by-name:label or --labels word_name",
    ),
    "ClassLabel beside other names, told": Layout(
        {"x.parquet": rows(IN_ORDER, names=["dog", "cat", "bee"], word_name=list(CLASSES[:3]))}, [3, 2, 1], labels="by-name:label"
    ),
    "other names beside numbers, told": Layout({"x.parquet": rows(IN_ORDER, name=list(CLASSES[1:]))}, [1, 2, 3], labels="name"),
    "no label": Layout({"x.parquet": rows([-1, -1, -1])}, NONE),
    "categories": Layout({"x.parquet": rows(pa.array(["dog", "ant", "bee"]).dictionary_encode())}, parquet),
    "lists of labels": Layout({"x.parquet": rows([[0], [1, 2], [3]])}, "must be whole numbers or text"),
    "text column": Layout({"x.parquet": rows(["bee", "ant", "dog"])}, parquet),
    "dictionary of binary": Layout(
        {"x.parquet": rows(["bee", "ant", "dog"], image=pa.array([jpeg(i) for i in range(3)]).dictionary_encode())}, [1, 0, 3]
    ),
    "two label columns": Layout({"x.parquet": rows([0, 1, 2], cls=[3, 3, 3])}, "column 'label' and column 'cls'"),
    "two label columns, told": Layout({"x.parquet": rows([0, 1, 2], cls=[3, 3, 3])}, [3, 3, 3], labels="cls"),
    "Delta": Layout({"x.parquet": rows(IN_ORDER), "_delta_log/0.json": "{}"}, "a Delta table"),
    "Hudi": Layout({"p/x.parquet": rows(IN_ORDER), ".hoodie/hoodie.properties": "a"}, "a Hudi table"),
    "Iceberg": Layout({"data/x.parquet": rows(IN_ORDER), "metadata/v1.metadata.json": "{}"}, "an Iceberg table"),
    "CIFAR's pickles": Layout({"data_batch_1": b"\x80\x02", "batches.meta": b"\x80\x02"}, "no images, Parquet files or tar"),
    "tiny-imagenet": Layout(
        {
            **{f"images/val_{i}.JPEG": "" for i in range(3)},
            "val_annotations.txt": "".join(f"val_{i}.JPEG\t{WNIDS[i]}\t0\t0\t9\t9\n" for i in range(3)),
        },
        "no class",
        classes=tuple(WNIDS),
    ),
}


def numbered(words: dict[str, str]) -> dict[str, str]:
    """ImageFolder's own numbers: its classes are counted in text order."""
    return {path: NUMBERED[sorted(TWELVE).index(word)] for path, word in words.items()}


def written(root: Path, files: Files) -> Path:
    for number, (name, content) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number) if content == "" else content.encode() if isinstance(content, str) else content)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_has_the_labels_that_others_read_or_is_refused(tmp_path: Path, layout: str) -> None:
    of = LAYOUTS[layout]
    root = written(tmp_path / "data", of.files)
    labels = of.labels or next((str(root / name) for name in of.files if name.startswith("l.")), None)
    if isinstance(of.expected, str):
        assert re.search(of.expected, refusal(root, classes=of.classes, labels=labels))
        return
    source = corpus.opened(root, of.classes, labels)
    found = {image.image_id: image.label for image in read_all(source)}
    assert surveyed(source).labelled == any(label is not None for label in found.values())
    if callable(of.expected):
        names = {path: None if label is None else of.classes[label] for path, label in found.items()}
        assert of.expected(root, "train") in (names, {path: str(label) for path, label in found.items()})
    else:
        assert list(found.values()) == of.expected


def test_a_pattern_or_a_part_of_a_table_is_that_table_too(tmp_path: Path) -> None:
    written(tmp_path / "delta", {"label=1/x.parquet": rows(), "_delta_log/0.json": "{}"})
    written(tmp_path / "iceberg", {"data/x.parquet": rows(), "metadata/v1.metadata.json": "{}"})
    for address in ("delta/label=1", "delta/label=1/x.parquet", "delta/label=1/*.parquet", "iceberg/data"):
        assert re.search(r"Read an? .* with its own reader", refusal(tmp_path / address))


def test_names_in_two_forms_of_unicode_are_the_same(tmp_path: Path) -> None:
    apart, composed = "cafe\u0301", "caf\u00e9"
    root = written(tmp_path / "data", {f"{apart}{i}.jpg": "" for i in range(3)})
    (tmp_path / "l.csv").write_text(csv([f"{composed}{i}.jpg,{i}" for i in range(3)]))
    assert labels_of(corpus.opened(root, CLASSES, tmp_path / "l.csv")) == IN_ORDER
    folders = written(tmp_path / "folders", {f"{apart}/x.jpg": "", "ant/x.jpg": "", "bee/x.jpg": ""})
    assert labels_of(corpus.opened(folders, ["ant", composed, "bee"])) == [0, 2, 1]


def test_of_two_images_of_one_name_a_bare_line_labels_none(tmp_path: Path) -> None:
    tar = corpus.tar(tmp_path / "data" / "x.tar", [(f"{folder}/{i}.jpg", jpeg(i)) for folder in "ab" for i in range(3)])
    (tmp_path / "bare.txt").write_text("".join(f"{i}.jpg {i}\n" for i in range(3)))
    (tmp_path / "paths.txt").write_text("".join(f"{folder}/{i}.jpg {i + (folder == 'b')}\n" for folder in "ab" for i in range(3)))
    assert labels_of(corpus.opened(tar.parent, CLASSES, tmp_path / "paths.txt")) == [0, 1, 2, 1, 2, 3]
    errors = [image.error or "" for image in read_all(corpus.opened(tar.parent, CLASSES, tmp_path / "bare.txt"))]
    assert ["several images have its name" in error for error in errors] == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {**tree(["ant", "bee"]), "cat/.DS_Store": "x", "cat/deep/readme.md": "x"},
            [".md files, such as cat/deep/readme.md", "hidden names, such as cat/.DS_Store", "folders without data, such as cat"],
        ),
        (
            {"x.tar": samples(JPG, ("seg.png", ""), ("txt", "a *"))},
            [".txt members that are no labels", "images beside a sample's own"],
        ),
        ({f"{s}-0.tar": samples(JPG) for s in ("train", "val")}, ["files of split train, such as train-0.tar"]),
        (
            {f"x-{k}-of-3.tar": samples(JPG, ("label.txt", "*"), ("json", "{}"), ("cls", "-1")) for k in (0, 2)},
            [
                "files not there, by the names of the others, such as x-1-of-3.tar",
                ".txt members without an image of that name beside them",
                ".json members that are no labels",
                ".cls members that are no labels",
            ],
        ),
        ({"metadata.csv": csv(["0.jpg,1", "1.jpg,2"]), "0.jpg": ""}, ["labels in its file without an image, such as 1.jpg"]),
        (
            {"metadata.csv": csv(["a/0.jpg,1", "b/1.jpg,2"]), "a/0.jpg": ""},
            ["labels in its file without an image, such as b/1.jpg"],
        ),
        ({"x.parquet": rows(mask=[b"x"] * 3), "y.parquet": rows()}, ["columns of other images, such as x.parquet#mask"]),
    ],
)
def test_what_is_not_classified_is_told_with_an_example(tmp_path: Path, files: Files, told: list[str]) -> None:
    survey = surveyed(corpus.opened(written(tmp_path, files), CLASSES))
    for what in told:
        assert any(kind.startswith(what) for kind in survey.left_out), survey.left_out


@pytest.mark.parametrize(
    ("first", "later", "error"),
    [
        (PLAIN, samples(JPG, ("json", '{"label": *}')), "it has no .cls, as the first samples have, but .json.label is '0'"),
        (PLAIN, samples(JPG, CLS, ("json", '{"class": 3}')), ".cls is '0' and .json.class is '3'; pass --labels cls or --labels"),
        (PLAIN, samples(JPG, ("cls", "ant")), "labels are names ('ant') and numbers ('0'); pass --labels by-name"),
        (PLAIN, samples(JPG, ("cls", "4*")), "label 40 is outside the checkpoint's classes 0-3"),
        (samples(JPG, ("json", '{"label": *}')), samples(JPG, ("json", '{"class": *}')), "it has no .json.label"),
        (samples(JPG, ("json", '{"label": *}')), samples(JPG, ("json", '{"label"')), "its label cannot be read"),
        (samples(JPG, ("txt", "ant")), samples(JPG, ("txt", "a small ant")), "label 'a small ant' is no class"),
        (samples(JPG), PLAIN, "the first samples have no labels, but here .cls is '0'; pass --labels cls"),
        (PLAIN, samples(JPG), ""),
        (PLAIN, samples(JPG, ("cls", "-1"), ("json", '{"label": 2}')), ""),
        (samples(JPG, ("txt", "a small ant")), samples(JPG, ("txt", "ant")), ""),
    ],
)
def test_a_later_tar_of_another_form_is_not_guessed(tmp_path: Path, first: bytes, later: bytes, error: str) -> None:
    images = read_all(corpus.opened(written(tmp_path, {"0.tar": first, "1.tar": later}), CLASSES))[3:]
    assert [image.label for image in images] == [None] * 3
    assert error in (images[0].error or "")
    assert all(bool(error) == bool(image.error) for image in images)


def test_how_sure_labels_are_is_said(tmp_path: Path) -> None:
    def said(classes: list[str], files: Files) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        return surveyed(corpus.opened(written(root, files), classes)).labels_from

    ids = tree(WNIDS[:2])
    taken = "WordNet ids, in ImageNet-1k's order, which the checkpoint's 1,000 classes are taken to have"
    assert said([f"LABEL_{i}" for i in range(1000)], ids) == f"folder names as {taken}"
    assert said(["tench", "goldfish", *CLASS_NAMES[2:]], ids).endswith("WordNet ids, all of which the checkpoint knows")
    assert said(WNIDS, ids).endswith("all of which the checkpoint knows")
    outer = tree(["images/ant", "masks/bee"])
    assert said(list(CLASSES), outer).startswith("folder names at level 2, below images, masks, as class names")
    assert said(list(CLASSES), {"x.parquet": rows([-1, None, -1])}) == "none: all are empty or -1 in column 'label'"
