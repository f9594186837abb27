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


THREE = tree(["."])


def listed(heading: str, row: str, name: str = "l.csv") -> Files:
    """Three pictures and a file of labels. In its rows, * is a picture's number, @ the class of that number, & the next class."""
    filled = [row.replace("*", str(i)).replace("@", CLASSES[i]).replace("&", CLASSES[i + 1]) for i in range(3)]
    return {**THREE, name: csv(filled, heading)}


def tar(*members: tuple[str, str], name: str = "x.tar") -> Files:
    """A tar of three samples k0, k1, k2: members by what follows the key; * in a text is the sample's number."""
    contents = [(f"k{k}.{ending}", text.replace("*", str(k)).encode() or jpeg(k)) for k in range(3) for ending, text in members]
    with TemporaryDirectory() as folder:
        return {name: corpus.tar(Path(folder) / "x.tar", contents).read_bytes()}


def rows(label: Any = None, names: list[str] | None = None, name: str = "x.parquet", **columns: Any) -> Files:
    """Parquet of three images. names: of a ClassLabel, as `datasets` stores them."""
    given = {"image": [{"bytes": jpeg(i), "path": None} for i in range(3)], **({} if label is None else {"label": label})}
    table = pa.table({name: pa.array(values) for name, values in (given | columns).items()})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    out = io.BytesIO()
    pq.write_table(table, out)
    return {name: out.getvalue()}


def in_text_order(root: Path) -> dict[str, str]:
    """ImageFolder's own numbers, as classes that are called LABEL_<number>: it counts them in text order."""
    return {path: NUMBERED[sorted(TWELVE).index(word)] for path, word in torchvision(root).items()}


def torchvision(root: Path) -> dict[str, str]:
    found = ImageFolder(str(root))
    return {Path(path).relative_to(root).as_posix(): found.classes[label] for path, label in found.samples}


def loaded(kind: str, root: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows that `datasets` reads, and the label of each in words."""
    data = datasets.load_dataset(kind, data_dir=str(root), split="train", cache_dir=str(root.parent / "cache"))
    label = data.features["label"]
    for row in data.cast_column("image", datasets.Image(decode=False)):
        yield row, label.int2str(row["label"]) if isinstance(label, datasets.ClassLabel) else str(row["label"])


def imagefolder(root: Path) -> dict[str, str]:
    return {Path(row["image"]["path"]).relative_to(root).as_posix(): word for row, word in loaded("imagefolder", root)}


def parquet(root: Path) -> dict[str, str]:
    return {f"x.parquet#{i}": word for i, (_, word) in enumerate(loaded("parquet", root))}


def webdataset(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.tar")):
        for sample in wds.WebDataset(str(path), shardshuffle=False):
            images = [f"{path.name}/{sample['__key__']}.{field}" for field in sample if field.endswith("jpg")]
            found |= dict.fromkeys(images, sample["cls"].decode())
    return found


NONE, IN_ORDER = [None] * 3, [0, 1, 2]
JPG, CLS = ("jpg", ""), ("cls", "*")
PLAIN = tar(JPG, CLS)["x.tar"]
NUMBERS_IN_NUMBERS: Files = {f"{i}/{i % 3}/x.jpg": "" for i in range(10)}
LINES: Files = {"l.txt": "\n".join(TWELVE)}
DOG = rows(IN_ORDER, ["dog", "cat", "bee"])
NUMBER_NAMES = rows(IN_ORDER, sorted(TWELVE))
OTHERS = rows(IN_ORDER, ["x", "y", "z"])


@dataclass(frozen=True)
class Layout:
    """expected: the library that says the same, what the refusal says, or our labels in order.

    labels: of --labels, else the file l.*, if there is one.
    """

    files: Files
    expected: Callable[[Path], dict[str, str]] | str | Sequence[int | None]
    labels: str | None = None
    classes: Sequence[str] = CLASSES


FOLDERS = {
    "class folders": Layout(tree(["ant", "cat", "dog"]), torchvision),
    "class folders, datasets": Layout(tree(["ant", "cat", "dog"]), imagefolder),
    "WordNet ids": Layout(tree(WNIDS[3:6]), torchvision, None, WNIDS),
    "class folders with others in them": Layout(tree(["ant/by x", "ant/by y", "cat/by x", "dog"]), torchvision),
    "a class called _dog": Layout(tree(["ant", "bee", "_dog"]), torchvision, None, ("ant", "bee", "_dog")),
    "pictures of cameras": Layout({"ant/_DSC1.JPG": "", "bee/_MG_1.jpg": "", "cat/_1.png": "", "cat/._1.png": "x"}, IN_ORDER),
    "ten numbers": Layout(tree(TWELVE[:10], 1), range(10), None, NUMBERED[:10]),
    "twelve numbers in text order": Layout(tree(TWELVE), in_text_order, "by-order", NUMBERED),
    "twelve names that are numbers": Layout(tree(TWELVE), "--labels by-name or --labels by-number", None, sorted(TWELVE)),
    "the same by name": Layout(tree(TWELVE), torchvision, "by-name", sorted(TWELVE)),
    "numbers in numbers": Layout(NUMBERS_IN_NUMBERS, "by-folder:1.*or --labels by-folder:2", None, NUMBERED),
    "the outer numbers": Layout(NUMBERS_IN_NUMBERS, range(10), "by-folder:1", NUMBERED),
    "the inner numbers": Layout(NUMBERS_IN_NUMBERS, [i % 3 for i in range(10)], "by-folder:2", NUMBERED),
    "one folder of numbers around others": Layout(
        tree(["0/0", "0/1"], 1), "by-folder:1.*or --labels by-folder:2", None, NUMBERED
    ),
    "no level": Layout(tree(["ant"]), "give the level of the folders", "by-folder:0"),
    "names in other names": Layout(tree(["ant/bee", "cat/dog"]), "by-folder:1"),
    "folders without names": Layout(tree(["x", "y", "z"]), "no class of the checkpoint", None, NUMBERED[:3]),
    "folders without names, by order": Layout(tree(["x", "y", "z"], 1), IN_ORDER, "by-order", NUMBERED[:3]),
    "fewer folders than classes, by order": Layout(tree(["x", "y"]), "2 folders for the checkpoint's 4 classes", "by-order"),
    "names and numbers": Layout(tree(["ant", "bee", "2"]), "labels are names .* and numbers"),
    "numbers beside a background": Layout(tree(TWELVE[:3], 1), r"class 0 is 'background'.*by-number\+1", None, BACKGROUND),
    "numbers without the background": Layout(tree(TWELVE[:3], 1), [1, 2, 3], "by-number+1", BACKGROUND),
    "numbers from 1": Layout(tree(["1", "2", "3", "4"], 1), "by-number-1"),
    "numbers from 1, told": Layout(tree(["1", "2", "3", "4"], 1), range(4), "by-number-1"),
    "numbers from 1 that begin at 0": Layout(tree(["0", "1"]), "label 0 by by-number-1 is outside", "by-number-1", NUMBERED),
    "a number too many": Layout(tree(["0", "12"]), "12 is outside .* 0-11; pass --labels by-number-1", None, NUMBERED),
    "padded numbers": Layout(tree(["00", "01", "02"], 1), IN_ORDER, None, NUMBERED),
    "digits of other scripts": Layout(tree(["\u0661", "\u0662"]), "no class of the checkpoint", None, NUMBERED),
    "numbers below 0": Layout(tree(["-1", "0"]), "no class of the checkpoint", None, NUMBERED),
    "splits": Layout(tree(["train/ant", "val/ant"]), "its folders are splits"),
    "splits of other words": Layout(tree(["training/ant", "evaluation/ant"]), "its folders are splits"),
    "trains and tests among classes": Layout(tree(["bus", "test", "train"], 1), IN_ORDER, None, ("bus", "test", "train")),
    "a wrapper": Layout(tree(["val/ant", "val/bee", "val/dog"], 1), [0, 1, 3]),
    "names within numbers": Layout(tree(["fog/1/ant", "fog/2/bee", "snow/1/ant"], 1), [0, 1, 0]),
    "others within numbers": Layout(tree(["0/a", "2/b"], 1), [0, 2], None, NUMBERED),
    "images beside class folders": Layout(tree(["ant", "bee"]) | {"x.jpg": ""}, "also folder 'ant' with images"),
    "a class beside other spellings": Layout(tree(["Ant", "BEE", "cat"], 1), IN_ORDER),
    "classes that differ by case": Layout(tree(["Crane", "crane", "dog"], 1), torchvision, None, ("crane", "Crane", "dog")),
    "a case that fits two": Layout(tree(["CRANE", "dog"], 1), "fits classes 0, 1", None, ("crane", "Crane", "dog")),
    "an archive of macOS": Layout(tree(["ant", "bee"], 1) | {"__MACOSX/ant/._0.jpg": "x"}, [0, 1]),
    "CIFAR's pickles": Layout({"data_batch_1": b"\x80\x02", "batches.meta": b"\x80\x02"}, "no images, Parquet files or tar"),
    "tiny-imagenet": Layout(
        tree(["images"]) | {"val_annotations.txt": f"0.jpg\t{WNIDS[0]}\t0\t0\t9\t9\n"}, "no class", None, WNIDS
    ),
}
FILES = {
    "metadata.csv": Layout(listed("file_name,label", "*.jpg,@", "metadata.csv"), imagefolder),
    "metadata.csv above folders": Layout(
        tree(["a", "b"], 1) | {"metadata.csv": csv(["a/0.jpg,dog", "b/0.jpg,bee"])}, imagefolder
    ),
    "metadata.csv against its folders": Layout(
        tree(["ant", "bee"], 1) | {"metadata.csv": csv(["ant/0.jpg,dog", "bee/0.jpg,bee"])}, "another label for ant/0.jpg"
    ),
    "metadata.csv of captions, by choice unlike datasets": Layout(
        tree(["ant", "bee", "cat"], 1) | {"metadata.csv": csv(["ant/0.jpg,one"], "file_name,caption")}, IN_ORDER
    ),
    "metadata.csv in a class folder": Layout(tree(["ant", "bee"]) | {"ant/metadata.csv": csv([])}, "may have the labels"),
    "both kinds of metadata": Layout(
        listed("file_name,label", "*.jpg,@", "metadata.csv") | {"metadata.jsonl": '{"file_name": "0.jpg", "label": 0}\n'},
        "labels in metadata.csv and in metadata.jsonl; pass --labels",
    ),
    "tabs with a heading": Layout(THREE | {"l.tsv": "image\tlabel\n2.jpg\tant\n1.jpg\tdog\n0.jpg\tbee\n"}, [1, 3, 0]),
    "columns of names that agree": Layout(listed("file,label,label_name", "*.jpg,*,@"), IN_ORDER),
    "a column of names that differ": Layout(
        listed("file,name,label", "*.jpg,&,*"), "label '0' is class 0, and 'bee' beside it, in 'name', is class 1"
    ),
    "a column of what a model answered": Layout(listed("filename,label,prediction", "*.jpg,@,&"), IN_ORDER),
    "a column in which a name occurs": Layout(
        THREE | {"l.csv": csv(["0.jpg,0,bee", "1.jpg,1,a big bee", "2.jpg,2,cat"], "file,label,name")}, IN_ORDER
    ),
    "one-hot columns": Layout(listed("file,ant,bee", "*.jpg,1,0"), "name the one of the labels"),
    "an empty label": Layout(listed("file,label", "*.jpg,"), "'' is no class"),
    "several labels": Layout(listed("file,label", "*.jpg,@ &"), "'ant bee' is no class"),
    "one line for two images": Layout(
        {"0.jpg": "", "0.png": "", "l.csv": csv(["0,1", "1,2"])}, "the line for 0.png is that of another image too"
    ),
    "JSON of lists": Layout(THREE | {"l.jsonl": '{"file": "0.jpg", "label": [1]}\n'}, "no class"),
    "a heading without images": Layout(listed("who,label", "*,*"), "the images 'filename'"),
    "two columns that differ": Layout(
        listed("id,class,label", "*.jpg,*,&"), "'0' beside it, in 'class', is class 0; remove 'class'"
    ),
    "JSON": Layout(THREE | {"l.json": '{"0.jpg": 0}'}, "looks like JSON"),
    "lines in number order": Layout(
        {**{f"img_{i}.jpg": "" for i in range(12)}, **LINES}, "img_1.jpg before img_10.jpg", None, NUMBERED
    ),
    "lines, of two cases": Layout({"Z.jpg": "", "_zz.jpg": "", "l.txt": "0\n1\n"}, "Z.jpg before _zz.jpg"),
    "lines in one order": Layout({**{f"img_{i:02d}.jpg": "" for i in range(12)}, **LINES}, range(12), None, NUMBERED),
    "tars and a file": Layout(tar(JPG) | {"l.csv": csv([f"k{i}.jpg,{2 - i}" for i in IN_ORDER])}, [2, 1, 0]),
    "tars and a file of a part": Layout(tar(JPG) | {"l.csv": csv(["k2.jpg,3", "k0.jpg,1"])}, [1, None, 3]),
    "tars and a file, background": Layout(tar(JPG) | {"l.csv": csv(["k1.jpg,1"])}, "data sets may not count", None, BACKGROUND),
    "tars and a file of bare lines": Layout(tar(JPG) | {"l.txt": "0\n1\n2\n"}, "its lines have no names"),
}
TARS = {
    "cls": Layout(tar(JPG, CLS), webdataset),
    "cls behind a byte order mark": Layout(tar(JPG, ("cls", "\ufeff*\n")), IN_ORDER),
    "keys to the first dot": Layout(tar(("input.jpg", ""), CLS), webdataset),
    "two views of a sample": Layout(tar(("left.jpg", ""), ("right.jpg", ""), CLS), webdataset),
    "masks beside images": Layout(tar(JPG, ("seg.png", ""), CLS), webdataset),
    "json": Layout(tar(JPG, ("json", '{"label": *, "width": 3, "top1": "dog"}')), IN_ORDER),
    "json that differs": Layout(tar(JPG, CLS, ("json", '{"class": 3}')), "cls or --labels json.class"),
    "json, told": Layout(tar(JPG, CLS, ("json", '{"class": 3}')), [3, 3, 3], "json.class"),
    "json of other names": Layout(
        tar(JPG, ("json", '{"label": 1, "label_name": "ant"}')),
        "in 'json.label_name', is class 0; pass --labels json.label or --labels json.label_name",
    ),
    "json without a label": Layout(tar(JPG, ("json", '{"annotation": {"label": *}}')), NONE),
    "img2dataset": Layout(tar(JPG, ("json", '{"key": "*", "caption": "a cat"}'), ("txt", "a cat")), NONE),
    "captions, some of one word": Layout(tar(JPG, ("txt", "a photo of *")) | tar(JPG, ("txt", "cat"), name="y.tar"), NONE * 2),
    "txt that is labels": Layout(tar(JPG, ("txt", "*")), IN_ORDER),
    "cls of no label": Layout(tar(JPG, ("cls", "-1")), NONE),
    "cls of several labels": Layout(tar(JPG, ("cls", "1 2")), "'1 2' is no class"),
    "another suffix": Layout(tar(JPG, ("label.txt", "*")), NONE),
    "tars called by class": Layout({f"{name}.tar": PLAIN for name in ("bus", "train", "valve", "dev-board")}, IN_ORDER * 4),
    "tars called like splits": Layout({f"{name}.tar": PLAIN for name in ("train-station", "test-bench")}, "may be splits or not"),
    "tars of splits and others": Layout({f"{name}-0.tar": PLAIN for name in ("train", "test", "extra")}, "may be splits or not"),
    "tars of splits in a folder": Layout({f"test/{name}-0.tar": PLAIN for name in ("train", "val")}, IN_ORDER),
    "tars of splits in other words": Layout({f"{name}-0.tar": PLAIN for name in ("training", "dev", "eval")}, IN_ORDER),
}
ROWS = {
    "ClassLabel": Layout(rows(IN_ORDER, ["dog", "ant", "cat"]), parquet),
    "ClassLabel of numbers": Layout(NUMBER_NAMES, "is called '10'.*by-number .*by-order", None, NUMBERED),
    "ClassLabel of numbers, by number": Layout(NUMBER_NAMES, [0, 1, 10], "by-number", NUMBERED),
    "ClassLabel of numbers, by order": Layout(NUMBER_NAMES, IN_ORDER, "by-order", NUMBERED),
    "ClassLabel of WordNet ids": Layout(rows(IN_ORDER, WNIDS[5:9]), [5, 6, 7], None, THOUSAND),
    "ClassLabel of others": Layout(OTHERS, "does not fit"),
    "ClassLabel of others, told": Layout(OTHERS, IN_ORDER, "label"),
    "ClassLabel in the first file": Layout(
        rows(IN_ORDER, ["dog", "cat", "bee"], "a.parquet") | rows(IN_ORDER),
        "it has labels in column 'label', and a.parquet has labels in column 'label' with class names",
    ),
    "ClassLabels that differ": Layout(
        DOG | rows(IN_ORDER, ["ant", "bee", "dog"], "y.parquet"), "class names of column 'label' are others than in x.parquet"
    ),
    "labels in the first file": Layout(
        rows(IN_ORDER) | rows(name="y.parquet"),
        "y.parquet: it has no label column, and x.parquet has labels in column 'label'; give files that are alike",
    ),
    "labels in other columns": Layout(rows(IN_ORDER) | rows(name="y.parquet", cls=IN_ORDER), "in column 'cls'"),
    "what a model answered": Layout(rows(IN_ORDER, prediction=CLASSES[1:]), IN_ORDER),
    "names beside numbers": Layout(rows(IN_ORDER, word_name=CLASSES[:3]), IN_ORDER),
    "other names beside numbers": Layout(
        rows(IN_ORDER, word=CLASSES[1:], class_name=CLASSES[1:]),
        "'bee' beside it, in 'class_name', is class 1; pass --labels label or --labels class_name",
    ),
    "other names beside numbers, told": Layout(rows(IN_ORDER, class_name=CLASSES[1:]), [1, 2, 3], "class_name"),
    "ClassLabel beside other names": Layout(
        rows(IN_ORDER, ["dog", "cat", "bee"], word_name=CLASSES[:3]),
        "'ant' beside it, in 'word_name', is class 0; pass --labels by-name:label or --labels word_name",
    ),
    "ClassLabel beside other names, told": Layout(
        rows(IN_ORDER, ["dog", "cat", "bee"], word_name=CLASSES[:3]), [3, 2, 1], "by-name:label"
    ),
    "no label": Layout(rows([-1, -1, -1]), NONE),
    "categories": Layout(rows(pa.array(["dog", "ant", "bee"]).dictionary_encode()), parquet),
    "text column": Layout(rows(["bee", "ant", "dog"]), parquet),
    "lists of labels": Layout(rows([[0], [1, 2], [3]]), "must be whole numbers or text"),
    "dictionary of binary": Layout(
        rows(["bee", "ant", "dog"], image=pa.array([jpeg(i) for i in range(3)]).dictionary_encode()), [1, 0, 3]
    ),
    "two label columns": Layout(rows(IN_ORDER, cls=[3, 3, 3]), "column 'label' and column 'cls'"),
    "two label columns, told": Layout(rows(IN_ORDER, cls=[3, 3, 3]), [3, 3, 3], "cls"),
    "Delta": Layout(rows() | {"_delta_log/0.json": "{}"}, "a Delta table"),
    "Hudi": Layout(rows() | {".hoodie/hoodie.properties": "a"}, "a Hudi table"),
    "Iceberg": Layout(rows(name="data/x.parquet") | {"metadata/v1.metadata.json": "{}"}, "an Iceberg table"),
}
LAYOUTS = FOLDERS | FILES | TARS | ROWS


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` would ask the hub about a local folder, for seconds where there is no network."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


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
        assert of.expected(root) in (names, {path: str(label) for path, label in found.items()})
    else:
        assert list(found.values()) == list(of.expected)


def test_a_pattern_or_a_part_of_a_table_is_that_table_too(tmp_path: Path) -> None:
    written(tmp_path / "delta", rows(name="label=1/x.parquet") | {"_delta_log/0.json": "{}"})
    written(tmp_path / "iceberg", rows(name="data/x.parquet") | {"metadata/v1.metadata.json": "{}"})
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
    images = corpus.tar(tmp_path / "data" / "x.tar", [(f"{folder}/{i}.jpg", jpeg(i)) for folder in "ab" for i in range(3)])
    (tmp_path / "bare.txt").write_text("".join(f"{i}.jpg {i}\n" for i in range(3)))
    (tmp_path / "paths.txt").write_text("".join(f"{folder}/{i}.jpg {i + (folder == 'b')}\n" for folder in "ab" for i in range(3)))
    assert labels_of(corpus.opened(images.parent, CLASSES, tmp_path / "paths.txt")) == [0, 1, 2, 1, 2, 3]
    errors = [image.error or "" for image in read_all(corpus.opened(images.parent, CLASSES, tmp_path / "bare.txt"))]
    assert ["several images have its name" in error for error in errors] == [False] * 3 + [True] * 3


LEFT_OUT: list[tuple[Files, list[str]]] = [
    (
        tree(["ant", "bee"]) | {"cat/.DS_Store": "x", "cat/deep/readme.md": "x"},
        [".md files, such as cat/deep/readme.md", "hidden names, such as cat/.DS_Store", "folders without data, such as cat"],
    ),
    (tar(JPG, ("seg.png", ""), ("txt", "a *")), [".txt members that are no labels", "images beside a sample's own"]),
    ({f"{s}-0.tar": PLAIN for s in ("train", "val")}, ["files of split train, such as train-0.tar"]),
    (
        {f"x-{k}-of-3.tar": tar(JPG, ("label.txt", "*"), ("json", "{}"), ("cls", "-1"))["x.tar"] for k in (0, 2)},
        [
            "files not there, by the names of the others, such as x-1-of-3.tar",
            ".txt members without an image of that name beside them",
            ".json members that are no labels",
            ".cls members that are no labels",
        ],
    ),
    ({f"x-{k}-of-3.tar": PLAIN for k in (1, 3)}, ["files not there, by the names of the others, such as x-2-of-3.tar"]),
    ({"metadata.csv": csv(["0.jpg,1", "1.jpg,2"]), "0.jpg": ""}, ["labels in its file without an image, such as 1.jpg"]),
    ({"metadata.csv": csv(["a/0.jpg,1", "b/1.jpg,2"]), "a/0.jpg": ""}, ["labels in its file without an image, such as b/1.jpg"]),
    (rows(mask=[b"x"] * 3) | rows(name="y.parquet"), ["columns of other images, such as x.parquet#mask"]),
]


@pytest.mark.parametrize(("files", "told"), LEFT_OUT)
def test_what_is_not_classified_is_told_with_an_example(tmp_path: Path, files: Files, told: list[str]) -> None:
    survey = surveyed(corpus.opened(written(tmp_path, files), CLASSES))
    for what in told:
        assert any(kind.startswith(what) for kind in survey.left_out), survey.left_out


LATER = [
    (CLS, [("json", '{"label": *}')], "it has no .cls, as the first samples have, but .json.label is '0'"),
    (CLS, [CLS, ("json", '{"class": 3}')], ".cls is '0' and .json.class is '3'; pass --labels cls or --labels"),
    (CLS, [("cls", "ant")], "labels are names ('ant') and numbers ('0'); pass --labels by-name"),
    (CLS, [("cls", "4*")], "label 40 is outside the checkpoint's classes 0-3"),
    (("json", '{"label": *}'), [("json", '{"class": *}')], "it has no .json.label"),
    (("json", '{"label": *}'), [("json", '{"label"')], "its label cannot be read"),
    (("txt", "ant"), [("txt", "a small ant")], "label 'a small ant' is no class"),
    (("seg.png", ""), [CLS], "the first samples have no labels, but here .cls is '0'; pass --labels cls"),
    (CLS, [], ""),
    (CLS, [("cls", "-1"), ("json", '{"label": 2}')], ""),
    (("txt", "a small ant"), [("txt", "ant")], ""),
]


@pytest.mark.parametrize(("first", "later", "error"), LATER)
def test_a_later_tar_of_another_form_is_not_guessed(
    tmp_path: Path, first: tuple[str, str], later: list[tuple[str, str]], error: str
) -> None:
    root = written(tmp_path, tar(JPG, first, name="0.tar") | tar(JPG, *later, name="1.tar"))
    images = read_all(corpus.opened(root, CLASSES))[3:]
    assert [image.label for image in images] == [None] * 3
    assert error in (images[0].error or "")
    assert all(bool(error) == bool(image.error) for image in images)


IDS = "folder names as WordNet ids"
SURE = [
    (THOUSAND, tree(WNIDS[:2]), f"{IDS}, in ImageNet-1k's order, which the checkpoint's 1,000 classes are taken to have"),
    (["tench", "goldfish", *CLASS_NAMES[2:]], tree(WNIDS[:2]), f"{IDS}, all of which the checkpoint knows"),
    (WNIDS, tree(WNIDS[:2]), f"{IDS}, all of which the checkpoint knows"),
    (CLASSES, tree(["images/ant", "masks/bee"]), "folder names at level 2, below images, masks, as class names"),
    (NUMBERED, tree(TWELVE), "which no name confirms; a model trained on folders in the order of their names as text needs"),
    (CLASSES, rows([-1, None, -1]), "none: all are empty or -1 in column 'label'"),
]


@pytest.mark.parametrize(("classes", "files", "said"), SURE)
def test_how_sure_labels_are_is_said(tmp_path: Path, classes: Sequence[str], files: Files, said: str) -> None:
    assert said in surveyed(corpus.opened(written(tmp_path, files), classes)).labels_from
