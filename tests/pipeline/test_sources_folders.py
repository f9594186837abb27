"""Folders of image files: odd names, bad files, class names, and labels from a file."""

import os
from pathlib import Path

import pytest

from jobs.pipeline.sources import EncodedImage, Source, surveyed
from jobs.storage.failure import Failing
from tests.pipeline.corpus import WNIDS, Picture, class_folders, flat_folder, jpeg, labels_of, opened, pictures, read_all, refusal

IMAGES = pictures(9)
ODD_NAMES = (
    *("a b.jpg", "käse.jpeg", "日本.png", "100%20.JPG", "a#1.jpg"),
    *("q?x=1&y.jpg", "star*.webp", "{1..3}.bmp", "dots.in.name.jpg"),
)


def by_id(source: Source) -> dict[str, EncodedImage]:
    return {image.image_id: image for image in read_all(source)}


def put(path: Path, data: bytes | str = "no image") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("local", [True, False], ids=["path", "file URI"])
def test_odd_names_are_ids_as_they_stand_and_read_back(tmp_path: Path, local: bool) -> None:
    root = tmp_path / "odd #1 ü 100%"
    images = [Picture(name, i % 3, jpeg(i)) for i, name in enumerate(ODD_NAMES)]
    class_folders(root, images, name=lambda i: f"thing_{i}")
    found = by_id(opened(root if local else root.as_uri()))
    assert {image_id: (image.label, bytes(image.data)) for image_id, image in found.items()} == {
        f"thing_{i.label}/{i.name}": (i.label, i.data) for i in images
    }


def test_symbolic_links_are_followed_but_one_that_leads_back_is_told(tmp_path: Path) -> None:
    store = class_folders(tmp_path / "store", IMAGES)
    root = tmp_path / "data"
    (root / WNIDS[8]).mkdir(parents=True)
    (root / WNIDS[7]).symlink_to(store / WNIDS[0])
    (root / WNIDS[8] / "link.jpg").symlink_to(store / WNIDS[1] / IMAGES[1].name)
    found = by_id(opened(root))
    assert found[f"{WNIDS[8]}/link.jpg"].data == IMAGES[1].data
    assert found[f"{WNIDS[7]}/{IMAGES[0].name}"].label == 7
    (root / WNIDS[8] / "again").symlink_to(root / WNIDS[8])
    assert "link that leads back" in refusal(root)


def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, IMAGES) / WNIDS[0]
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "empty.jpg").touch()
    (folder / "vast.jpg").touch()
    os.truncate(folder / "vast.jpg", 2**40)
    (folder / "caf\udce9.jpg").write_bytes(IMAGES[0].data)
    source = opened(tmp_path)
    assert surveyed(source).images == len(IMAGES) + 4 == len(by_id(source))
    assert {image_id.partition("/")[2]: image.error for image_id, image in by_id(source).items() if image.error} == {
        "broken.jpg": "cannot be read: it is empty, or a link that leads nowhere",
        "vast.jpg": "larger than 256 MiB",
        "caf\\xe9.jpg": "cannot be read: its name is not valid UTF-8",
    }


def test_what_is_no_data_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, IMAGES) / WNIDS[0]
    for hidden in ("_temporary/0", "@eaDir", ".hidden", "lost+found", "__MACOSX"):
        put(tmp_path / hidden / "x.jpg", jpeg(0))
    for name in ("notes.txt", "more.TXT", "x.jpg.part", "Thumbs.db", "README"):
        put(folder / name)
    os.mkfifo(folder / "pipe.jpg")  # which would wait for a writer
    survey = surveyed(opened(tmp_path))
    assert survey.images == len(IMAGES) == len(read_all(opened(tmp_path)))
    left_out = {kind.partition(",")[0]: count for kind, count in survey.left_out.items()}
    files = {".txt files": 2, ".part files": 1, ".db files": 1, "files without extension": 1}
    assert left_out == {"hidden names": 5, **files, "pipes": 1}
    assert f".txt files, such as {WNIDS[0]}/more.TXT" in survey.left_out


LABEL_FILES = [
    ("names.csv", 'name,label\nx.jpg,"thing 7, Res tertia 7"\ny 2.jpg,"thing 9, Res tertia 9"\n'),
    ("bare.csv", "y 2.jpg,9\nx.jpg,7\n"),
    ("order.csv", "7\n9\n"),
    ("val.txt", "val/x.jpg 7\r\nval/y 2.jpg 9\r\n"),
    ("tabs.tsv", "\ufeffy 2.jpg\tthing 9, Res tertia 9\nx.jpg\tthing 7\n"),
    ("order.txt", f"{WNIDS[7]}\n{WNIDS[9]}\n\n"),
    ("more.txt", "x.jpg thing 7\ny 2.jpg thing 9\nanother.JPEG thing 3\n"),
    ("ids.csv", f"ImageId,Class\nx,{WNIDS[7]}\ny 2,{WNIDS[9]}\n"),
    ("solution.csv", f"ImageId,PredictionString\nx,{WNIDS[7]} 85 1 4 2\ny 2,{WNIDS[9]} 1 2 3 4 {WNIDS[9]} 5 6 7 8\n"),
    ("metadata.csv", ",file_name,label,width\n0,x.jpg,7,500\n1,y 2.jpg,9,375\n"),
    ("metadata.csv", "label,image path,file_name\n7,x,a/x.jpg\n9,x,a/y 2.jpg\n"),
    ("metadata.jsonl", '{"file_name": "x.jpg", "label": 7}\n{"file_name": "y 2.jpg", "label": 9}\n'),
    ("val_annotations.txt", f"x.jpg\t{WNIDS[7]}\t0\t32\t44\t62\ny 2.jpg\t{WNIDS[9]}\t1\t2\t3\t4\n"),
    ("one.csv", "label\n7\n9\n"),
    *(("stems.csv", f"x{mark}7\ny 2{mark}9\n") for mark in ",;\t|"),
    ("quoted.csv", '"x.jpg","7"\n"y 2.jpg","9"\n'),
]
WRONG_LABEL_FILES = [
    ("gone.txt", None, "gone.txt: no such file"),
    ("short.txt", "1\n", "1 labels for 2 images"),
    ("part.txt", "x.jpg 1\n", "no label for image y 2.jpg"),
    ("range.txt", "5\n1000\n", "label 2: label 1000 is outside"),
    ("word.txt", "5\nwalrus\n", "label 2: label 'walrus' is no class"),
    ("mixed.txt", "5\nx.jpg 1\n", "some lines have an image name"),
    ("twice.txt", "x.jpg 1\ny 2.jpg 1\nx.jpg 2\n", "two different labels"),
    ("empty.txt", "", "0 labels for 2 images"),
    ("binary.txt", "\udcff", "not a UTF-8 text file"),
    ("ILSVRC2012_validation_ground_truth.txt", "1\n1\n", "the devkit's ILSVRC2012_ID"),
    ("a.jsonl", '{"file_name": "x.jpg"}\n', "line 1 is no object with a file name and a label"),
    ("a.jsonl", "[" * 100_000, "line 1 is no object"),
    *((f"a.{ending}", f"x.jpg{mark}7{mark}9\n", "columns are not clear; give") for ending, mark in (("csv", ","), ("tsv", "\t"))),
    ("a.csv", "x.jpg,7\ny 2.jpg,7,9\n", "row 2 has 3 columns, others 2"),
    ("a.csv", "file_name,width\nx.jpg,500\n", "name the one of the labels 'label'"),
    ("a.csv", "file_name,width,label\nx.jpg,500\n", "too few"),
    ("a.txt", "x.jpg " + "9" * 2_000_000, "longer than"),
    ("a.csv", "x.jpg," + "word" * 20_000, "characters"),
    ("a.csv", "x.jpg," + "9" * 2_000_000, "longer than"),
]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return flat_folder(tmp_path / "two", [Picture(name, 0, jpeg(0)) for name in ("x.jpg", "y 2.jpg")])


@pytest.mark.parametrize(("name", "text"), LABEL_FILES)
def test_a_labels_file_gives_each_image_its_label_by_name_or_by_order(tmp_path: Path, two: Path, name: str, text: str) -> None:
    put(tmp_path / name, text)
    source = opened(two, labels=tmp_path / name)
    assert surveyed(source).labels_from.startswith(f"{tmp_path / name} as ")
    assert labels_of(source) == [7, 9]
    put(tmp_path / "other" / name, text.replace("9", "8").replace(WNIDS[9], WNIDS[8]))
    assert surveyed(opened(two, labels=tmp_path / "other" / name)).fingerprint != surveyed(source).fingerprint


@pytest.mark.parametrize(("name", "text", "says"), WRONG_LABEL_FILES)
def test_a_labels_file_that_does_not_fit_is_refused(tmp_path: Path, two: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        put(tmp_path / name, text)
    for limit in (None, 1):
        assert says in refusal(two, labels=tmp_path / name, limit=limit)


METADATA = [
    ("metadata.csv", "file_name,label\nx.jpg,7\ny.jpg,9\n", [7, 9]),
    ("metadata.jsonl", '{"file_name": "x.jpg", "label": 7}\n\n{"label": 9, "file_name": "y.jpg"}\n', [7, 9]),
    ("metadata.csv", "file_name,text\nx.jpg,a fish\ny.jpg,a shark\n", [None, None]),
    ("metadata.csv", "\udcff\udcfe\n", [None, None]),
    ("metadata.csv", "file_name," * 200_000, [None, None]),
    ("metadata.jsonl", "not JSON\n", [None, None]),
    ("metadata.jsonl", "[" * 100_000, [None, None]),
    ("metadata.jsonl", "", [None, None]),
    ("labels.csv", "file_name,label\nx.jpg,7\ny.jpg,9\n", [None, None]),
]


@pytest.mark.parametrize(("file", "text", "labels"), METADATA)
def test_metadata_beside_the_images_may_have_their_labels(tmp_path: Path, file: str, text: str, labels: list[int | None]) -> None:
    flat_folder(tmp_path, [Picture(name, 0, jpeg(0)) for name in ("x.jpg", "y.jpg")])
    put(tmp_path / file, text)
    survey = surveyed(opened(tmp_path))
    assert labels_of(opened(tmp_path)) == labels
    assert (survey.labels_from.startswith(str(tmp_path / file)), survey.left_out == {}) == (survey.labelled,) * 2
    assert survey.labelled is (labels[0] is not None)
    assert survey.labels_from.startswith("none found (looked for") is not survey.labelled
    assert labels_of(opened(tmp_path, labels="none")) == [None, None]


def test_a_relative_labels_file_is_found_from_elsewhere(tmp_path: Path, two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "labels.txt", "x.jpg 7\ny 2.jpg 9\n")
    monkeypatch.chdir(tmp_path)
    source, one = (opened(uri, labels="labels.txt") for uri in (two, two / "y 2.jpg"))
    monkeypatch.chdir(two)
    assert (labels_of(source), labels_of(one)) == ([7, 9], [9])


def test_files_are_gone_only_while_their_folder_is_there_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is away hides all files at once: that is no property of any image."""
    monkeypatch.setenv("LOUDBOX_RETRY_SECONDS", "0.2")
    data = class_folders(tmp_path / "data", pictures(12))
    source = opened(data)
    (shard,) = source.shards()
    first, *others = sorted(data.rglob("*.*"))
    first.unlink()
    found = [image.error for _, image in source.read(shard, lambda _: True)]
    assert found == ["cannot be read: the file is gone"] + [None] * len(others)
    others[-1].parent.rename(tmp_path / "away")
    assert any(image.error is None for _, image in source.read(shard, lambda _: True))
    data.rename(tmp_path / "all away")
    with pytest.raises(Failing, match="is the disk still mounted"):
        list(source.read(shard, lambda _: True))
