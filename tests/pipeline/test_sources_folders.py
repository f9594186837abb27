"""Folders of image files: odd names, bad files, class names, and labels from a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.pipeline.sources import EncodedImage, Source, open_source, surveyed
from jobs.storage.failure import Failing
from tests.pipeline.corpus import (
    CLASS_NAMES,
    WNIDS,
    Picture,
    class_folders,
    flat_folder,
    jpeg,
    pictures,
    read_all,
)
from vit_actor.errors import UserError

IMAGES = pictures(9)
ODD_NAMES = [
    "a b.jpg",
    "käse.jpeg",
    "日本.png",
    "100%20.JPG",
    "a#1.jpg",
    "q?x=1&y.jpg",
    "star*.webp",
    "{1..3}.bmp",
    "dots.in.name.jpg",
]


def opened(uri: Path | str, classes: list[str] = CLASS_NAMES, labels: Path | str | None = None) -> Source:
    return open_source(str(uri), checkpoint_classes=classes, labels=None if labels is None else str(labels))


def by_id(source: Source) -> dict[str, EncodedImage]:
    return {image.image_id: image for image in read_all(source)}


@pytest.mark.parametrize("local", [True, False], ids=["path", "file URI"])
def test_odd_names_are_ids_as_they_stand_and_read_back(tmp_path: Path, local: bool) -> None:
    root = tmp_path / "odd #1 ü 100%"
    images = [Picture(name, i % 3, jpeg(i)) for i, name in enumerate(ODD_NAMES)]
    class_folders(root, images, name=lambda i: f"thing_{i}")
    found = by_id(opened(root if local else root.as_uri()))
    assert {image_id: bytes(image.data) for image_id, image in found.items()} == {
        f"thing_{i.label}/{i.name}": i.data for i in images
    }
    assert all(found[f"thing_{i.label}/{i.name}"].label == i.label for i in images)


def test_symbolic_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    store = class_folders(tmp_path / "store", IMAGES)
    root = tmp_path / "data"
    root.mkdir()
    (root / WNIDS[7]).symlink_to(store / WNIDS[0])
    (root / WNIDS[8]).mkdir()
    (root / WNIDS[8] / "link.jpg").symlink_to(store / WNIDS[1] / IMAGES[1].name)
    found = by_id(opened(root))
    assert found[f"{WNIDS[8]}/link.jpg"].data == IMAGES[1].data
    assert found[f"{WNIDS[7]}/{IMAGES[0].name}"].label == 7


def test_a_folder_link_that_leads_back_is_an_error_not_an_endless_walk(tmp_path: Path) -> None:
    class_folders(tmp_path, IMAGES)
    (tmp_path / WNIDS[0] / "again").symlink_to(tmp_path / WNIDS[0])
    with pytest.raises(UserError, match="link that leads back"):
        surveyed(opened(tmp_path))


def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    class_folders(tmp_path, IMAGES)
    folder = tmp_path / WNIDS[0]
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "empty.jpg").touch()
    with (folder / "vast.jpg").open("wb") as vast:
        vast.truncate(2**40)
    with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb") as latin:
        latin.write(IMAGES[0].data)
    source = opened(tmp_path)
    assert surveyed(source).images == len(IMAGES) + 4
    found = by_id(source)
    assert len(found) == len(IMAGES) + 4
    assert found[f"{WNIDS[0]}/broken.jpg"].error == "cannot be read: it is empty, or a link that leads nowhere"
    assert found[f"{WNIDS[0]}/vast.jpg"].error == "larger than 256 MiB"
    assert "not valid UTF-8" in (found[f"{WNIDS[0]}/caf\\xe9.jpg"].error or "")
    assert found[f"{WNIDS[0]}/empty.jpg"].error is None  # for the decoder to judge
    assert sum(image.error is not None for image in found.values()) == 3
    assert all(image_id.encode() for image_id in found)


def test_what_is_no_data_is_left_out_and_counted(tmp_path: Path) -> None:
    class_folders(tmp_path, IMAGES)
    for name in ("_temporary/0/x.jpg", "@eaDir/x.jpg", ".hidden/x.jpg", "lost+found/x.jpg", "__MACOSX/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(jpeg(0))
    folder = next(path for path in tmp_path.iterdir() if path.name.startswith("n"))
    for name in ("notes.txt", "more.TXT", "x.jpg.part", "Thumbs.db", "README"):
        (folder / name).write_text("no image")
    os.mkfifo(folder / "pipe.jpg")  # which would wait for a writer
    survey = surveyed(opened(tmp_path))
    assert survey.images == len(IMAGES) == len(read_all(opened(tmp_path)))
    assert {kind.partition(",")[0]: count for kind, count in survey.left_out.items()} == {
        "hidden names": 5,
        ".txt files": 2,
        ".part files": 1,
        ".db files": 1,
        "files without extension": 1,
        "pipes": 1,
    }
    assert f".txt files, such as {folder.name}/more.TXT" in survey.left_out


TRUTH = {image.name: image.label for image in IMAGES}
LABEL_FILES = {
    "names.csv": "name,label\n" + "".join(f'{i.name},"{CLASS_NAMES[i.label]}"\n' for i in IMAGES),
    "bare.csv": "".join(f"{i.name},{i.label}\n" for i in reversed(IMAGES)),
    "order.csv": "".join(f"{i.label}\n" for i in IMAGES),
    "val.txt": "".join(f"val/{i.name} {i.label}\r\n" for i in IMAGES),
    "tabs.tsv": "\ufeff" + "".join(f"{i.name}\t{CLASS_NAMES[i.label]}\n" for i in reversed(IMAGES)),
    "order.txt": "".join(f"{WNIDS[i.label]}\n" for i in IMAGES) + "\n",
    "more.txt": "".join(f"{i.name} {i.label}\n" for i in IMAGES) + "another.JPEG 3\n",
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_labels_come_from_a_file_by_name_or_by_order(tmp_path: Path, name: str) -> None:
    flat_folder(tmp_path / "data", IMAGES)
    (tmp_path / name).write_text(LABEL_FILES[name], newline="")
    source = opened(tmp_path / "data", labels=tmp_path / name)
    assert surveyed(source).labelled
    assert {image.image_id: image.label for image in read_all(source)} == TRUTH


def test_other_labels_are_another_fingerprint(tmp_path: Path) -> None:
    flat_folder(tmp_path / "data", IMAGES)
    (tmp_path / "a.txt").write_text(LABEL_FILES["order.txt"])
    (tmp_path / "b.txt").write_text(LABEL_FILES["order.txt"].replace(WNIDS[207], WNIDS[208]))
    a, b = (surveyed(opened(tmp_path / "data", labels=tmp_path / name)).fingerprint for name in ("a.txt", "b.txt"))
    assert a != b


def test_labels_of_names_with_spaces_and_for_one_image_of_many(tmp_path: Path) -> None:
    flat_folder(tmp_path / "data", [Picture("my dog 2.jpg", 0, jpeg(0))])
    (tmp_path / "labels.txt").write_text("my dog 2.jpg thing 7\nother.jpg thing 3\n")
    for uri in (tmp_path / "data", tmp_path / "data" / "my dog 2.jpg"):
        assert [image.label for image in read_all(opened(uri, labels=tmp_path / "labels.txt"))] == [7]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("gone.txt", None, "gone.txt: no such file"),
        ("short.txt", "1\n2\n", "2 labels for 9 images"),
        ("part.txt", f"{IMAGES[0].name} 1\n{IMAGES[1].name} 1\n", f"no label for image {IMAGES[2].name}"),
        ("range.txt", "5\n" * 8 + "1000\n", "label 9: label 1000 is outside"),
        ("word.txt", "5\n" * 8 + "walrus\n", "label 9: label 'walrus' is no class"),
        ("mixed.txt", f"5\n{IMAGES[0].name} 1\n", "some lines have an image name"),
        ("twice.txt", "".join(f"{i.name} 1\n" for i in IMAGES) + f"{IMAGES[0].name} 2\n", "two different labels"),
        ("empty.txt", "", "no label for image|0 labels for 9"),
        ("binary.txt", "\udcff", "not a UTF-8 text file"),
        ("ILSVRC2012_validation_ground_truth.txt", "1\n" * 9, "the devkit's ILSVRC2012_ID"),
    ],
)
def test_a_labels_file_that_does_not_fit_ends_before_any_work(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    flat_folder(tmp_path / "data", IMAGES)
    if text is not None:
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=says) as raised:
        surveyed(opened(tmp_path / "data", labels=tmp_path / name))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.csv", "ImageId,Class\n{0},{w0}\n{1},{w1}\n"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\n{0},{w0} 85 1 499 272\n{1},{w1} 1 2 3 4 {w1} 5 6 7 8\n"),
        ("metadata.csv", ",file_name,label,width\n0,{0}.jpg,{i0},500\n1,{1}.jpg,{i1},375\n"),
        ("metadata.csv", "label,image path,file_name\n{i0},x,a/{0}.jpg\n{i1},x,a/{1}.jpg\n"),
        ("metadata.jsonl", '{{"file_name": "{0}.jpg", "label": {i0}}}\n{{"file_name": "{1}.jpg", "label": {i1}}}\n'),
        ("one.csv", "label\n{i0}\n{i1}\n"),
        ("val_annotations.txt", "{0}.jpg\t{w0}\t0\t32\t44\t62\n{1}.jpg\t{w1}\t1\t2\t3\t4\n"),
    ],
)
def test_labels_files_as_data_sets_have_them(tmp_path: Path, file: str, text: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    stems = ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"]
    for stem in stems:
        (data / f"{stem}.jpg").write_bytes(jpeg(0))
    filled = text.format(*stems, w0=WNIDS[7], w1=WNIDS[9], i0=7, i1=9)
    (tmp_path / file).write_text(filled)
    source = opened(data, labels=tmp_path / file)
    survey = surveyed(source)
    assert survey.labelled
    assert survey.labels_from.startswith(f"{tmp_path / file} as ")
    assert [image.label for image in read_all(source)] == [7, 9]


@pytest.mark.parametrize(
    ("file", "text", "labels"),
    [
        ("metadata.csv", "file_name,label\nx.jpg,7\ny.jpg,9\n", [7, 9]),
        ("metadata.jsonl", '{"file_name": "x.jpg", "label": 7}\n\n{"label": 9, "file_name": "y.jpg"}\n', [7, 9]),
        ("metadata.csv", "file_name,text\nx.jpg,a fish\ny.jpg,a shark\n", [None, None]),
        ("metadata.csv", "\udcff\udcfe\n", [None, None]),
        ("metadata.csv", "file_name," * 200_000, [None, None]),
        ("metadata.jsonl", "not JSON\n", [None, None]),
        ("metadata.jsonl", "[" * 100_000, [None, None]),
        ("metadata.jsonl", "", [None, None]),
        ("labels.csv", "file_name,label\nx.jpg,7\ny.jpg,9\n", [None, None]),
    ],
)
def test_metadata_beside_the_images_has_their_labels_where_it_has_any(
    tmp_path: Path, file: str, text: str, labels: list[int | None]
) -> None:
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / name).write_bytes(jpeg(0))
    (tmp_path / file).write_bytes(text.encode(errors="surrogateescape"))
    survey = surveyed(opened(tmp_path))
    assert [image.label for image in read_all(opened(tmp_path))] == labels
    assert (survey.labels_from.startswith(str(tmp_path / file)), survey.left_out == {}) == (survey.labelled,) * 2
    assert survey.labelled is (labels[0] is not None)
    assert [image.label for image in read_all(opened(tmp_path, labels="none"))] == [None, None]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("a.jsonl", '{"file_name": "x.jpg"}\n', "line 1 is no object with a file name and a label"),
        ("a.jsonl", "[" * 100_000, "line 1 is no object"),
        ("a.csv", "file_name,width\nx.jpg,500\n", "name the one of the labels 'label'"),
        ("a.csv", "file_name,width,label\nx.jpg,500\n", "too few"),
        ("a.txt", "x.jpg " + "9" * 2_000_000, "longer than"),
        ("a.csv", "x.jpg," + "word" * 20_000, "characters"),
        ("a.csv", "x.jpg," + "9" * 2_000_000, "longer than"),
    ],
)
def test_a_labels_file_that_cannot_be_used_is_one_short_line(tmp_path: Path, file: str, text: str, says: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "x.jpg").write_bytes(jpeg(0))
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=says) as refused:
        surveyed(opened(data, labels=tmp_path / file))
    assert len(str(refused.value)) < 500


def test_a_relative_labels_file_is_found_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat_folder(tmp_path / "data", IMAGES)
    (tmp_path / "labels.txt").write_text("".join(f"{image.name} {image.label}\n" for image in IMAGES))
    monkeypatch.chdir(tmp_path)
    source = opened(tmp_path / "data", labels="labels.txt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [image.label for image in read_all(source)] == [image.label for image in IMAGES]


def test_where_labels_were_looked_for_in_vain_is_told(tmp_path: Path) -> None:
    flat_folder(tmp_path, IMAGES)
    survey = surveyed(opened(tmp_path))
    assert not survey.labelled
    assert survey.labels_from.startswith("none found (looked for")


def test_files_are_gone_only_while_their_folder_is_there_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is away hides all files at once: that is no property of any image."""
    monkeypatch.setenv("LOUDBOX_RETRY_SECONDS", "0.2")
    data = class_folders(tmp_path / "data", pictures(12))
    source = open_source(str(data), checkpoint_classes=CLASS_NAMES)
    (shard,) = source.shards()
    first, *others = sorted(data.rglob("*.*"))
    first.unlink()
    found = [image.error for _, image in source.read(shard, lambda _: True)]
    assert found == ["cannot be read: the file is gone"] + [None] * len(others)
    for away in (data, others[-1].parent):
        away.rename(tmp_path / "away")
        if away == data:
            with pytest.raises(Failing, match="is the disk still mounted"):
                list(source.read(shard, lambda _: True))
        else:
            assert sum(image.error is None for _, image in source.read(shard, lambda _: True)) > 0
        (tmp_path / "away").rename(away)
