"""Labels against the libraries that people compare with: ours says the same, or refuses, or says that there are none."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from torchvision.datasets import ImageFolder

from jobs.pipeline.sources import open_source, surveyed
from tests.pipeline.corpus import CLASS_NAMES, WNIDS, jpeg, read_all, tar
from vit_actor.errors import UserError

CLASSES = ("ant", "bee", "cat", "dog")
NUMBERED = tuple(f"LABEL_{i}" for i in range(12))
THOUSAND = tuple(f"thing {i}" for i in range(1000))
BACKGROUND = ("background", *THOUSAND)
TWELVE = [str(i) for i in range(12)]

type Files = dict[str, str | bytes]
"""Files by path; an empty text is a picture of its own."""


def tree(folders: list[str], images: int = 3) -> Files:
    return {f"{folder}/{i}.jpg": "" for folder in folders for i in range(images)}


def csv(rows: list[str], heading: str = "file_name,label") -> str:
    return "\n".join([heading, *rows]) + "\n"


def samples(*members: tuple[str, str]) -> bytes:
    """A tar of three samples k0, k1, k2: members by what follows the key; * in a text is the sample's number."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for k in range(3):
            for ending, text in members:
                info = tarfile.TarInfo(f"k{k}.{ending}")
                data = text.replace("*", str(k)).encode() if text else jpeg(k)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def rows(label: Any = None, names: list[str] | None = None, **columns: Any) -> bytes:
    """Parquet of three images. names: of a ClassLabel, as `datasets` stores them."""
    given = {"image": pa.array([jpeg(i) for i in range(3)]), **({} if label is None else {"label": label}), **columns}
    table = pa.table(given)
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        image = pa.array([{"bytes": jpeg(i), "path": None} for i in range(3)])
        table = pa.table({"image": image, "label": pa.array(label), **columns})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def torchvision(root: Path, split: str) -> dict[str, str]:
    found = ImageFolder(str(root))
    return {Path(path).relative_to(root).as_posix(): found.classes[label] for path, label in found.samples}


def imagefolder(root: Path, split: str) -> dict[str, str]:
    loaded = datasets.load_dataset("imagefolder", data_dir=str(root), split=split, cache_dir=str(root.parent / "cache"))
    loaded = loaded.cast_column("image", datasets.Image(decode=False))
    return {Path(row["image"]["path"]).relative_to(root).as_posix(): _word(loaded, row) for row in loaded}


def parquet(root: Path, split: str) -> dict[str, str]:
    loaded = datasets.load_dataset("parquet", data_dir=str(root), split=split, cache_dir=str(root.parent / "cache"))
    loaded = loaded.cast_column("image", datasets.Image(decode=False))
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.parquet"))
    return {f"{files[0]}#{i}": _word(loaded, row) for i, row in enumerate(loaded)}


def _word(loaded: datasets.Dataset, row: dict[str, Any]) -> str:
    kind, label = loaded.features["label"], row["label"]
    return kind.int2str(label) if isinstance(kind, datasets.ClassLabel) else str(label)


def webdataset(root: Path, split: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.tar")):
        for sample in wds.WebDataset(str(path), shardshuffle=False):
            images = [f"{path.name}/{sample['__key__']}.{field}" for field in sample if field.endswith("jpg")]
            found |= dict.fromkeys(images, sample["cls"].decode())
    return found


NONE = "labels: none"
JPG, CLS = ("jpg", ""), ("cls", "*")
PLAIN = samples(JPG, CLS)
NUMBERS_IN_NUMBERS: Files = {f"{i}/{i % 3}/x.jpg": "" for i in range(10)}
IN_ORDER = [0, 1, 2]
LINES: Files = {"l.txt": "\n".join(TWELVE)}
METADATA = csv([f"{i}.jpg,{CLASSES[i]}" for i in range(3)])
NAMED = [f"{i}.jpg,{i}" for i in range(3)]

# name: (files, classes, --labels, the library that says the same, or what the refusal says, or NONE, or our labels by class)
LAYOUTS: dict[
    str, tuple[Files, tuple[str, ...], str | None, Callable[[Path, str], dict[str, str]] | str | list[int] | list[int | None]]
] = {
    "class folders": (tree(["ant", "cat", "dog"]), CLASSES, None, torchvision),
    "class folders, datasets": (tree(["ant", "cat", "dog"]), CLASSES, None, imagefolder),
    "WordNet ids": (tree(WNIDS[3:6]), tuple(WNIDS), None, torchvision),
    "class folders with others in them": (tree(["ant/by x", "ant/by y", "cat/by x", "dog"]), CLASSES, None, torchvision),
    "a class called _dog": (tree(["ant", "bee", "_dog"]), ("ant", "bee", "_dog"), None, torchvision),
    "pictures of cameras": (
        {"ant/_DSC1.JPG": "", "bee/_MG_1.jpg": "", "cat/_1.png": "", "cat/._1.png": "x"},
        CLASSES,
        None,
        IN_ORDER,
    ),
    "ten numbers": (tree(TWELVE[:10]), NUMBERED[:10], None, [i for i in range(10) for _ in range(3)]),
    "twelve numbers in text order": (tree(TWELVE), NUMBERED, "by-order", lambda root, split: numbered(torchvision(root, split))),
    "twelve names that are numbers": (
        tree(TWELVE),
        tuple(sorted(TWELVE)),
        None,
        "by name.*--labels by-name or --labels by-number|by-name",
    ),
    "the same by name": (tree(TWELVE), tuple(sorted(TWELVE)), "by-name", torchvision),
    "numbers in numbers": (NUMBERS_IN_NUMBERS, NUMBERED, None, "by-folder:1.*or --labels by-folder:2"),
    "the outer numbers": (NUMBERS_IN_NUMBERS, NUMBERED, "by-folder:1", list(range(10))),
    "the inner numbers": (NUMBERS_IN_NUMBERS, NUMBERED, "by-folder:2", [i % 3 for i in range(10)]),
    "names in other names": (tree(["ant/bee", "cat/dog"]), CLASSES, None, "by-folder:1"),
    "folders without names": (tree(["x", "y", "z"]), NUMBERED[:3], None, "no class of the checkpoint"),
    "folders without names, by order": (tree(["x", "y", "z"]), NUMBERED[:3], "by-order", [0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "names and numbers": (tree(["ant", "bee", "2"]), CLASSES, None, "labels are names .* and numbers"),
    "numbers beside a background": (tree(TWELVE[:3], 1), BACKGROUND, None, r"class 0 is 'background'.*by-number\+1"),
    "numbers without the background": (tree(TWELVE[:3], 1), BACKGROUND, "by-number+1", [1, 2, 3]),
    "numbers from 1": (tree(["1", "2", "3", "4"], 1), CLASSES, None, "by-number-1"),
    "numbers from 1, told": (tree(["1", "2", "3", "4"], 1), CLASSES, "by-number-1", [0, 1, 2, 3]),
    "splits": (tree(["train/ant", "val/ant"]), CLASSES, None, "its folders are splits"),
    "splits beside other folders": (tree(["train/ant", "val/ant", "more/bee"]), CLASSES, None, "its folders are splits"),
    "one folder of numbers around others": (
        {f"0/{i}/x.jpg": "" for i in IN_ORDER},
        NUMBERED,
        None,
        "by-folder:1.*or --labels by-folder:2",
    ),
    "a wrapper": (tree(["val/ant", "val/bee", "val/dog"]), CLASSES, None, [0, 0, 0, 1, 1, 1, 3, 3, 3]),
    "names within numbers": (tree(["fog/1/ant", "fog/2/bee", "snow/1/ant"], 1), CLASSES, None, [0, 1, 0]),
    "others within numbers": (tree(["0/a", "2/b"], 1), NUMBERED, None, [0, 2]),
    "images beside class folders": ({**tree(["ant", "bee"]), "x.jpg": ""}, CLASSES, None, "also folder 'ant' with images"),
    "a class beside other spellings": (tree(["Ant", "BEE", "cat"]), CLASSES, None, [0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "classes that differ by case": (tree(["Crane", "crane", "dog"], 1), ("crane", "Crane", "dog"), None, torchvision),
    "a case that fits two": (tree(["CRANE", "dog"], 1), ("crane", "Crane", "dog"), None, "fits classes 0, 1"),
    "padded numbers": (tree(["00", "01", "02"]), NUMBERED, None, [0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "digits of other scripts": (tree(["\u0661", "\u0662"]), NUMBERED, None, "no class of the checkpoint"),
    "numbers below 0": (tree(["-1", "0"]), NUMBERED, None, "no class of the checkpoint"),
    "fractions": (tree(["0.0", "1.0"]), NUMBERED, None, "no class of the checkpoint"),
    "a number too many": (tree(["0", "12"]), NUMBERED, None, "12 is outside .* 0-11; pass --labels by-number-1"),
    "numbers from 1 that begin at 0": (tree(["0", "1"]), NUMBERED, "by-number-1", "label 0 by by-number-1 is outside"),
    "names behind numbers": (tree(["001.ant", "002.bee"]), CLASSES, None, "no class of the checkpoint"),
    "splits of other words": (tree(["training/ant", "evaluation/ant"]), CLASSES, None, "its folders are splits"),
    "an archive of macOS": ({**tree(["ant", "bee"]), "__MACOSX/ant/._0.jpg": "x"}, CLASSES, None, [0, 0, 0, 1, 1, 1]),
    "a train among vehicles": (tree(["bus", "train"]), ("bus", "train"), None, torchvision),
    "metadata.csv": ({**tree(["."]), "metadata.csv": METADATA}, CLASSES, None, imagefolder),
    "metadata.jsonl": (
        {
            **tree(["."]),
            "metadata.jsonl": "".join(json.dumps({"file_name": f"{i}.jpg", "label": CLASSES[i]}) + "\n" for i in range(3)),
        },
        CLASSES,
        None,
        imagefolder,
    ),
    "metadata.csv above folders": (
        {**tree(["a", "b"], 1), "metadata.csv": csv(["a/0.jpg,dog", "b/0.jpg,bee"])},
        CLASSES,
        None,
        imagefolder,
    ),
    "metadata.csv against its folders": (
        {**tree(["ant", "bee"], 1), "metadata.csv": csv(["ant/0.jpg,dog", "bee/0.jpg,bee"])},
        CLASSES,
        None,
        "another label for ant/0.jpg",
    ),
    "metadata.csv in a class folder": (
        {**tree(["ant", "bee"]), "ant/metadata.csv": METADATA},
        CLASSES,
        None,
        "may have the labels",
    ),
    "semicolons": ({**tree(["."]), "l.csv": "filename;label\n0.jpg;ant\n1.jpg;dog\n2.jpg;bee\n"}, CLASSES, "l.csv", [0, 3, 1]),
    "tabs with a heading": (
        {**tree(["."]), "l.tsv": "image\tlabel\n2.jpg\tant\n1.jpg\tdog\n0.jpg\tbee\n"},
        CLASSES,
        "l.tsv",
        [1, 3, 0],
    ),
    "columns of names that agree": (
        {**tree(["."]), "l.csv": csv([f"{i}.jpg,{i},{CLASSES[i]}" for i in IN_ORDER], "file,label,label_name")},
        CLASSES,
        "l.csv",
        IN_ORDER,
    ),
    "a column of names that differ": (
        {**tree(["."]), "l.csv": csv([f"{i}.jpg,{CLASSES[i]},{i + 1}" for i in IN_ORDER], "file,name,label")},
        CLASSES,
        "l.csv",
        "label '1' is class 1, and 'ant' beside it, in 'name', is class 0",
    ),
    "a column of what a model answered": (
        {**tree(["."]), "l.csv": csv([f"{i}.jpg,{CLASSES[i]},{CLASSES[i + 1]}" for i in IN_ORDER], "filename,label,prediction")},
        CLASSES,
        "l.csv",
        IN_ORDER,
    ),
    "the same in Parquet": ({"x.parquet": rows(IN_ORDER, prediction=list(CLASSES[1:]))}, CLASSES, None, IN_ORDER),
    "the same in json": (
        {"x.tar": samples(JPG, ("json", '{"label": *, "top1": "dog"}'))},
        CLASSES,
        None,
        IN_ORDER,
    ),
    "a column in which a name occurs": (
        {**tree(["."]), "l.csv": csv(["0.jpg,0,bee", "1.jpg,1,a big bee", "2.jpg,2,cat"], "file,label,caption")},
        CLASSES,
        "l.csv",
        IN_ORDER,
    ),
    "one-hot columns": (
        {**tree(["."]), "l.csv": csv(["0.jpg,1,0"], "file,ant,bee")},
        CLASSES,
        "l.csv",
        "name the one of the labels",
    ),
    "two labels of one image": ({**tree(["."]), "l.csv": csv(["0.jpg,1", "0.jpg,2"])}, CLASSES, "l.csv", "two different labels"),
    "no label of one image": (
        {**tree(["."]), "l.csv": csv(["0.jpg,1", "1.jpg,2"])},
        CLASSES,
        "l.csv",
        "no label for image 2.jpg",
    ),
    "an empty label": ({**tree(["."]), "l.csv": csv(["0.jpg,", "1.jpg,2"])}, CLASSES, "l.csv", "'' is no class"),
    "several labels": ({**tree(["."]), "l.csv": csv(["0.jpg,ant bee", "1.jpg,ant"])}, CLASSES, "l.csv", "'ant bee' is no class"),
    "one line for two images": (
        {"0.jpg": "", "0.png": "", "l.csv": csv(["0,1", "1,2"])},
        CLASSES,
        "l.csv",
        "the line for 0.png is that of another image too",
    ),
    "JSON of lists": ({**tree(["."]), "l.jsonl": '{"file": "0.jpg", "label": [1]}\n'}, CLASSES, "l.jsonl", "no class"),
    "a heading without images": (
        {**tree(["."]), "l.csv": csv(["a,0", "b,1", "c,2"], "who,label")},
        CLASSES,
        "l.csv",
        "the images 'filename'",
    ),
    "two columns that differ": (
        {**tree(["."]), "l.csv": csv([f"{i}.jpg,{i},{CLASSES[i + 1]}" for i in range(3)], "id,class,label")},
        CLASSES,
        "l.csv",
        "'0' beside it, in 'class', is class 0; remove 'class'",
    ),
    "JSON": ({**tree(["."]), "l.json": '{"0.jpg": 0}'}, CLASSES, "l.json", "looks like JSON"),
    "lines in number order": (
        {**{f"img_{i}.jpg": "" for i in range(12)}, **LINES},
        NUMBERED,
        "l.txt",
        "img_1.jpg before img_10.jpg|img_11.jpg before img_2.jpg",
    ),
    "lines, of two cases": (
        {"B.jpg": "", "a.jpg": "", "c.jpg": "", "l.txt": "0\n1\n2\n"},
        CLASSES,
        "l.txt",
        "B.jpg before a.jpg",
    ),
    "lines in one order": ({**{f"img_{i:02d}.jpg": "" for i in range(12)}, **LINES}, NUMBERED, "l.txt", list(range(12))),
    "cls": ({"x.tar": PLAIN}, CLASSES, None, webdataset),
    "cls behind a byte order mark": ({"x.tar": samples(JPG, ("cls", "\ufeff*\n"))}, CLASSES, None, IN_ORDER),
    "keys to the first dot": ({"x.tar": samples(("input.jpg", ""), ("cls", "*"))}, CLASSES, None, webdataset),
    "two views of a sample": ({"x.tar": samples(("left.jpg", ""), ("right.jpg", ""), ("cls", "*"))}, CLASSES, None, webdataset),
    "several tars": ({f"{k}.tar": PLAIN for k in range(3)}, CLASSES, None, webdataset),
    "json": ({"x.tar": samples(JPG, ("json", '{"label": *, "width": 3}'))}, CLASSES, None, IN_ORDER),
    "json that differs": ({"x.tar": samples(JPG, CLS, ("json", '{"class": 3}'))}, CLASSES, None, "cls or --labels json.class"),
    "json, told": ({"x.tar": samples(JPG, CLS, ("json", '{"class": 3}'))}, CLASSES, "json.class", [3, 3, 3]),
    "img2dataset": ({"x.tar": samples(JPG, ("json", '{"key": "*", "caption": "a cat"}'), ("txt", "a cat"))}, CLASSES, None, NONE),
    "captions, some of one word": (
        {"x.tar": samples(JPG, ("txt", "a photo of *")), "y.tar": samples(JPG, ("txt", "cat"))},
        CLASSES,
        None,
        NONE,
    ),
    "txt that is labels": ({"x.tar": samples(JPG, ("txt", "*"))}, CLASSES, None, IN_ORDER),
    "json of other names": (
        {"x.tar": samples(JPG, ("json", '{"label": 1, "label_name": "ant"}'))},
        CLASSES,
        None,
        "in 'json.label_name', is class 0; pass --labels json.label or --labels json.label_name",
    ),
    "json of other names, told": (
        {"x.tar": samples(JPG, ("json", '{"label": 1, "label_name": "ant"}'))},
        CLASSES,
        "json.label_name",
        [0, 0, 0],
    ),
    "json without a label": ({"x.tar": samples(JPG, ("json", '{"annotation": {"label": *}}'))}, CLASSES, None, NONE),
    "cls of no label": ({"x.tar": samples(JPG, ("cls", "-1"))}, CLASSES, None, NONE),
    "cls of several labels": ({"x.tar": samples(JPG, ("cls", "1 2"))}, CLASSES, None, "'1 2' is no class"),
    "masks beside images": ({"x.tar": samples(JPG, ("seg.png", ""), CLS)}, CLASSES, None, webdataset),
    "another suffix": ({"x.tar": samples(JPG, ("label.txt", "*"))}, CLASSES, None, NONE),
    "tars and a file": (
        {"x.tar": samples(JPG), "l.csv": csv([f"k{i}.jpg,{2 - i}" for i in IN_ORDER])},
        CLASSES,
        "l.csv",
        [2, 1, 0],
    ),
    "tars and a file, background": (
        {"x.tar": samples(JPG), "l.csv": csv([f"k{i}.jpg,{i}" for i in IN_ORDER])},
        BACKGROUND,
        "l.csv",
        "which data sets may not count",
    ),
    "tars and a file of bare lines": ({"x.tar": samples(JPG), "l.txt": "0\n1\n2\n"}, CLASSES, "l.txt", "its lines have no names"),
    "tars called by class": (
        {f"{name}.tar": PLAIN for name in ("bus", "car", "train", "valve", "dev-board")},
        CLASSES,
        None,
        [0, 1, 2] * 5,
    ),
    "tars called like splits": (
        {f"{name}.tar": PLAIN for name in ("train-station", "test-bench")},
        CLASSES,
        None,
        "may be splits or not",
    ),
    "tars of splits and others": (
        {f"{name}-0.tar": PLAIN for name in ("train", "test", "extra")},
        CLASSES,
        None,
        "may be splits or not",
    ),
    "tars of splits in other words": ({f"{name}-0.tar": PLAIN for name in ("training", "dev", "eval")}, CLASSES, None, IN_ORDER),
    "tars of splits": ({f"{name}-000.tar": PLAIN for name in ("train", "val")}, CLASSES, None, IN_ORDER),
    "ClassLabel": ({"x.parquet": rows([0, 1, 2], names=["dog", "ant", "cat"])}, CLASSES, None, parquet),
    "ClassLabel of numbers": (
        {"x.parquet": rows([0, 1, 2], names=sorted(TWELVE))},
        NUMBERED,
        None,
        "is called '10'.*by-number .*by-order",
    ),
    "ClassLabel of numbers, by number": ({"x.parquet": rows([0, 1, 2], names=sorted(TWELVE))}, NUMBERED, "by-number", [0, 1, 10]),
    "ClassLabel of numbers, by order": ({"x.parquet": rows([0, 1, 2], names=sorted(TWELVE))}, NUMBERED, "by-order", IN_ORDER),
    "ClassLabel of WordNet ids": ({"x.parquet": rows(IN_ORDER, names=WNIDS[5:9])}, THOUSAND, None, [5, 6, 7]),
    "ClassLabel of others": ({"x.parquet": rows(IN_ORDER, names=["x", "y", "z"])}, CLASSES, None, "does not fit"),
    "ClassLabel of others, told": ({"x.parquet": rows(IN_ORDER, names=["x", "y", "z"])}, CLASSES, "label", IN_ORDER),
    "ClassLabel in the first file": (
        {"a.parquet": rows(IN_ORDER, names=["dog", "cat", "bee"]), "b.parquet": rows(IN_ORDER)},
        CLASSES,
        None,
        "it has labels in column 'label', and a.parquet has labels in column 'label' with class names",
    ),
    "ClassLabels that differ": (
        {"a.parquet": rows(IN_ORDER, names=["dog", "cat", "bee"]), "b.parquet": rows(IN_ORDER, names=["ant", "bee", "dog"])},
        CLASSES,
        None,
        "the class names of column 'label' are others than in a.parquet",
    ),
    "labels in the first file": (
        {"a.parquet": rows(IN_ORDER), "b.parquet": rows()},
        CLASSES,
        None,
        "b.parquet: it has no label column, and a.parquet has labels in column 'label'; give files that are alike",
    ),
    "tars and a file of a part": (
        {"x.tar": samples(JPG), "l.csv": csv(["k2.jpg,3", "k0.jpg,1"])},
        CLASSES,
        "l.csv",
        [1, None, 3],
    ),
    "labels in other columns": ({"a.parquet": rows(IN_ORDER), "b.parquet": rows(cls=IN_ORDER)}, CLASSES, None, "in column 'cls'"),
    "names beside numbers": ({"x.parquet": rows(IN_ORDER, name=list(CLASSES[:3]))}, CLASSES, None, IN_ORDER),
    "other names beside numbers": (
        {"x.parquet": rows(IN_ORDER, name=list(CLASSES[1:]))},
        CLASSES,
        None,
        "'bee' beside it, in 'name', is class 1; pass --labels label or --labels name",
    ),
    "ClassLabel beside other names": (
        {"x.parquet": rows(IN_ORDER, names=["dog", "cat", "bee"], word_name=list(CLASSES[:3]))},
        CLASSES,
        None,
        "'ant' beside it, in 'word_name', is class 0; pass --labels by-name:label or --labels word_name",
    ),
    "ClassLabel beside other names, told": (
        {"x.parquet": rows(IN_ORDER, names=["dog", "cat", "bee"], word_name=list(CLASSES[:3]))},
        CLASSES,
        "by-name:label",
        [3, 2, 1],
    ),
    "other names beside numbers, told": ({"x.parquet": rows(IN_ORDER, name=list(CLASSES[1:]))}, CLASSES, "name", [1, 2, 3]),
    "no label": ({"x.parquet": rows([-1, -1, -1])}, CLASSES, None, NONE),
    "categories": ({"x.parquet": rows(pa.array(["dog", "ant", "bee"]).dictionary_encode())}, CLASSES, None, parquet),
    "lists of labels": ({"x.parquet": rows([[0], [1, 2], [3]])}, CLASSES, None, "must be whole numbers or text"),
    "truth values": ({"x.parquet": rows([True, False, True])}, CLASSES, None, "must be whole numbers or text"),
    "text column": ({"x.parquet": rows(["bee", "ant", "dog"])}, CLASSES, None, parquet),
    "dictionary of binary": (
        {"x.parquet": rows(["bee", "ant", "dog"], image=pa.array([jpeg(i) for i in range(3)]).dictionary_encode())},
        CLASSES,
        None,
        [1, 0, 3],
    ),
    "two label columns": ({"x.parquet": rows([0, 1, 2], cls=[3, 3, 3])}, CLASSES, None, "column 'label' and column 'cls'"),
    "two label columns, told": ({"x.parquet": rows([0, 1, 2], cls=[3, 3, 3])}, CLASSES, "cls", [3, 3, 3]),
    "Hive": ({f"label={i}/x.parquet": rows() for i in range(3)}, CLASSES, None, [i for i in range(3) for _ in range(3)]),
    "Delta": ({"x.parquet": rows(IN_ORDER), "_delta_log/0.json": "{}"}, CLASSES, None, "a Delta table"),
    "Hudi": ({"p/x.parquet": rows(IN_ORDER), ".hoodie/hoodie.properties": "a"}, CLASSES, None, "a Hudi table"),
    "Iceberg": ({"data/x.parquet": rows(IN_ORDER), "metadata/v1.metadata.json": "{}"}, CLASSES, None, "an Iceberg table"),
    "CIFAR's pickles": (
        {"data_batch_1": b"\x80\x02", "batches.meta": b"\x80\x02"},
        CLASSES,
        None,
        "no images, Parquet files or tar",
    ),
    "tiny-imagenet": (
        {
            **{f"images/val_{i}.JPEG": "" for i in range(3)},
            "val_annotations.txt": "".join(f"val_{i}.JPEG\t{WNIDS[i]}\t0\t0\t9\t9\n" for i in range(3)),
        },
        tuple(WNIDS),
        None,
        "no class",
    ),
    "Kaggle": (
        {**tree(["."]), "LOC.csv": csv([f"{i},{WNIDS[9 - i]} 1 2 3 4" for i in range(3)], "ImageId,PredictionString")},
        THOUSAND,
        "LOC.csv",
        [9, 8, 7],
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
    files, classes, labels, expected = LAYOUTS[layout]
    root = written(tmp_path / "data", files)
    labels = str(root / labels) if labels and labels in files else labels

    def ours() -> dict[str, int | None]:
        source = open_source(str(root), checkpoint_classes=list(classes), labels=labels)
        survey = surveyed(source)
        found = {image.image_id: image.label for image in read_all(source)}
        assert survey.labelled == any(label is not None for label in found.values())
        return found

    if isinstance(expected, str) and expected != NONE:
        with pytest.raises(UserError, match=expected):
            ours()
        return
    found = ours()
    if expected == NONE:
        assert set(found.values()) == {None}
    elif isinstance(expected, list):
        assert list(found.values()) == expected
    elif callable(expected):
        words = expected(root, "train")
        names = {path: classes[label] if label is not None else None for path, label in found.items()}
        assert words == names or words == {path: str(label) for path, label in found.items()}
        assert len(words) >= 3 or len(files) < 4


def test_a_pattern_or_a_part_of_a_table_is_that_table_too(tmp_path: Path) -> None:
    written(tmp_path / "delta", {"label=1/x.parquet": rows(), "_delta_log/0.json": "{}"})
    written(tmp_path / "iceberg", {"data/x.parquet": rows(), "metadata/v1.metadata.json": "{}"})
    for address in ("delta/label=1", "delta/label=1/x.parquet", "delta/label=1/*.parquet", "iceberg/data"):
        with pytest.raises(UserError, match=r"Read an? .* with its own reader"):
            surveyed(open_source(str(tmp_path / address), checkpoint_classes=list(CLASSES)))


def test_names_in_two_forms_of_unicode_are_the_same(tmp_path: Path) -> None:
    apart, composed = "cafe\u0301", "caf\u00e9"
    root = written(tmp_path / "data", {f"{apart}{i}.jpg": "" for i in range(3)})
    (tmp_path / "l.csv").write_text(csv([f"{composed}{i}.jpg,{i}" for i in range(3)]))
    assert [
        i.label for i in read_all(open_source(str(root), checkpoint_classes=list(CLASSES), labels=str(tmp_path / "l.csv")))
    ] == [0, 1, 2]
    folders = written(tmp_path / "folders", {f"{apart}/x.jpg": "", "ant/x.jpg": "", "bee/x.jpg": ""})
    assert [i.label for i in read_all(open_source(str(folders), checkpoint_classes=["ant", composed, "bee"]))] == [0, 2, 1]


def test_of_two_images_of_one_name_a_bare_line_labels_none(tmp_path: Path) -> None:
    tar(tmp_path / "data" / "x.tar", [(f"{folder}/{i}.jpg", jpeg(i)) for folder in "ab" for i in range(3)])
    (tmp_path / "bare.txt").write_text("".join(f"{i}.jpg {i}\n" for i in range(3)))
    (tmp_path / "paths.txt").write_text("".join(f"{folder}/{i}.jpg {i + (folder == 'b')}\n" for folder in "ab" for i in range(3)))
    bare, paths = (
        read_all(open_source(str(tmp_path / "data"), checkpoint_classes=list(CLASSES), labels=str(tmp_path / name)))
        for name in ("bare.txt", "paths.txt")
    )
    assert [image.label for image in paths] == [0, 1, 2, 1, 2, 3]
    assert ["several images have its name" in (image.error or "") for image in bare] == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {**tree(["ant", "bee"]), "cat/.DS_Store": "x", "notes.txt": "x"},
            [".txt files, such as notes.txt", "hidden names, such as cat/.DS_Store"],
        ),
        (
            {**tree(["ant", "bee"]), "cat/deep/readme.md": "x"},
            [".md files, such as cat/deep/readme.md", "folders without data, such as cat"],
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
            {"x.parquet": rows(mask=pa.array([b"x"] * 3)), "y.parquet": rows().replace(b"", b"")},
            ["columns of other images, such as x.parquet#mask"],
        ),
    ],
)
def test_what_is_not_classified_is_told_with_an_example(tmp_path: Path, files: Files, told: list[str]) -> None:
    survey = surveyed(open_source(str(written(tmp_path, files)), checkpoint_classes=list(CLASSES)))
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
    root = written(tmp_path, {"0.tar": first, "1.tar": later})
    source = open_source(str(root), checkpoint_classes=list(CLASSES))
    images = read_all(source)[3:]
    assert [image.label for image in images] == [None] * 3
    assert error in (images[0].error or "")
    assert all(bool(error) == bool(image.error) for image in images)


def test_where_others_differ_by_choice(tmp_path: Path) -> None:
    captions = csv(["ant/0.jpg,one", "bee/0.jpg,two", "cat/0.jpg,cat"], "file_name,caption")
    folders = written(tmp_path / "folders", {**tree(["ant", "bee", "cat"], 1), "metadata.csv": captions})
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folders), split="train", cache_dir=str(tmp_path / "cache"))
    assert "label" not in loaded.features
    source = open_source(str(folders), checkpoint_classes=list(CLASSES))
    assert [image.label for image in read_all(source)] == IN_ORDER
    tars = written(tmp_path / "tars", {"x.tar": samples(JPG, ("txt", "a cat")), "y.tar": samples(JPG, ("txt", "cat"))})
    theirs = [sample["txt"] for name in "xy" for sample in wds.WebDataset(str(tars / f"{name}.tar"), shardshuffle=False)]
    loaded = datasets.load_dataset("webdataset", data_dir=str(tars), split="train", cache_dir=str(tmp_path / "cache"))
    assert theirs == [b"a cat"] * 3 + [b"cat"] * 3
    assert [text.encode() for text in loaded["txt"]] == theirs
    assert not surveyed(open_source(str(tars), checkpoint_classes=list(CLASSES))).labelled


def test_how_sure_labels_are_is_said(tmp_path: Path) -> None:
    def said(classes: list[str], files: Files) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        return surveyed(open_source(str(written(root, files)), checkpoint_classes=classes)).labels_from

    ids = tree(WNIDS[:2])
    taken = "WordNet ids, in ImageNet-1k's order, which the checkpoint's 1,000 classes are taken to have"
    assert said([f"LABEL_{i}" for i in range(1000)], ids) == f"folder names as {taken}"
    assert said(["tench", "goldfish", *CLASS_NAMES[2:]], ids).endswith("WordNet ids, all of which the checkpoint knows")
    assert said(WNIDS, ids).endswith("all of which the checkpoint knows")
    outer = tree(["images/ant", "masks/bee"])
    assert said(list(CLASSES), outer).startswith("folder names at level 2, below images, masks, as class names")
    assert said(list(CLASSES), {"x.parquet": rows([-1, None, -1])}) == "none: all are empty or -1 in column 'label'"
