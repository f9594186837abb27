"""What holds for every layout: all images come back, once, whole, in a stable order, under limits and on resume."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jobs.pipeline.sources import EncodedImage, Source, surveyed
from tests.pipeline import corpus
from tests.pipeline.corpus import CLASS_NAMES, WNIDS, Picture, flat_folder, read_all, refusal
from vit_actor.errors import UserError

IMAGES = corpus.pictures(23)


def suffixed_folder(root: Path, images: list[Picture]) -> Path:
    """root/<image>_<WordNet id>.JPEG, as the hub's copy of ImageNet unpacks."""
    return flat_folder(root, [Picture(f"{i.name.partition('.')[0]}_{WNIDS[i.label]}.JPEG", i.label, i.data) for i in images])


def two_plain_files(root: Path, images: list[Picture]) -> Path:
    corpus.plain_parquet(root / "a" / "part.parquet", images[:9])
    corpus.plain_parquet(root / "b" / "part.parquet", images[9:], row_group_size=100)
    return root


LAYOUTS: dict[str, Callable[[Path, list[Picture]], Path]] = {
    "class folders": corpus.class_folders,
    "class folders in a folder": lambda root, images: corpus.class_folders(root / "val", images).parent,
    "class folders by index": lambda root, images: corpus.class_folders(root, images, name=str),
    "class folders by name": lambda root, images: corpus.class_folders(root, images, name=CLASS_NAMES.__getitem__),
    "flat folder": flat_folder,
    "suffixed names": suffixed_folder,
    "hub parquet": lambda root, images: corpus.hub_parquet(root, images, CLASS_NAMES),
    "plain parquet": two_plain_files,
    "parquet without labels": lambda root, images: corpus.plain_parquet(root / "x.parquet", images, labelled=False).parent,
    "tar": corpus.webdataset,
    "tar with json": lambda root, images: corpus.webdataset(root, images, label="json"),
    "tar without labels": lambda root, images: corpus.webdataset(root, images, label=""),
}
UNLABELLED = {"flat folder", "parquet without labels", "tar without labels"}


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("data"), IMAGES) for name, make in LAYOUTS.items()}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


def opened(uri: Path | str, **options: Any) -> Source:
    return corpus.opened(uri, images_per_shard=6, **options)


def contents(images: list[EncodedImage]) -> list[tuple[str, int | None, bytes, str | None]]:
    return [(image.image_id, image.label, bytes(image.data), image.error) for image in images]


def test_every_image_comes_back_whole_with_its_label_or_without(data_sets: dict[str, Path], layout: str) -> None:
    source, unlabelled = opened(data_sets[layout]), opened(data_sets[layout], labels="none")
    survey, images = surveyed(source), read_all(source)
    expected = {(image.data, None if layout in UNLABELLED else image.label, None) for image in IMAGES}
    assert {(bytes(image.data), image.label, image.error) for image in images} == expected
    assert len({image.image_id for image in images}) == len(images) == len(IMAGES)
    assert survey.images == (None if layout.startswith("tar") else len(IMAGES))
    assert survey.labelled == (layout not in UNLABELLED)
    assert not surveyed(unlabelled).labelled
    assert {image.label for image in read_all(unlabelled)} == {None}


def test_shards_are_the_same_on_every_listing_with_ids_fit_for_files(data_sets: dict[str, Path], layout: str) -> None:
    source, again = opened(data_sets[layout]), pickle.loads(pickle.dumps(opened(data_sets[layout])))
    shards = list(source.shards())
    assert shards == list(again.shards())
    assert len({shard.id for shard in shards}) == len(shards)
    assert all(shard.id.replace(".", "").replace("-", "").replace("_", "").isalnum() and len(shard.id) < 128 for shard in shards)
    assert all(json.loads(json.dumps(shard.payload)) == shard.payload for shard in shards)


def test_a_limit_takes_the_first_images_in_listing_order(data_sets: dict[str, Path], layout: str) -> None:
    everything = contents(read_all(opened(data_sets[layout])))
    for limit in (1, 7, 12, 23, 500):
        source = opened(data_sets[layout], limit=limit)
        assert contents(read_all(source)) == everything[:limit]
        assert surveyed(source).images in (None, min(limit, len(IMAGES)))


def test_only_wanted_ordinals_are_given_under_the_same_numbers(data_sets: dict[str, Path], layout: str) -> None:
    source = opened(data_sets[layout])
    for shard in source.shards():
        everything = {i: contents([image])[0] for i, image in source.read(shard, lambda _: True)}
        assert list(everything) == list(range(len(everything)))
        some = {i: contents([image])[0] for i, image in source.read(shard, lambda i: i % 3 == 1)}
        assert some == {i: image for i, image in everything.items() if i % 3 == 1}
        assert list(source.read(shard, lambda _: False)) == []


def test_the_fingerprint_is_of_contents_labels_and_cut_but_not_of_place(tmp_path: Path, layout: str) -> None:
    made = {"one": IMAGES, "two": IMAGES, "fewer": IMAGES[:4]}
    one, two, fewer = (LAYOUTS[layout](tmp_path / name, images) for name, images in made.items())
    sources = [opened(one), opened(two), opened(fewer), opened(one, limit=20), opened(one, labels="none")]
    first, again, *others = (surveyed(source).fingerprint for source in sources)
    assert first == again
    # Where there are no labels, to ignore them changes nothing.
    assert len({first, *others}) == (3 if layout == "flat folder" else 4)


def test_files_that_change_once_listed_are_told_and_not_read(data_sets: dict[str, Path], layout: str, tmp_path: Path) -> None:
    copy = shutil.copytree(data_sets[layout], tmp_path / "copy")
    source = opened(copy)
    shards = list(source.shards())
    for file in copy.rglob("*.*"):
        file.write_bytes(file.read_bytes() + b"more")
    for shard in shards:
        if "paths" in shard.payload:
            found = [image.error or "" for _, image in source.read(shard, lambda _: True)]
            assert found
            assert all(error.endswith("when the run listed it") for error in found)
        else:
            with pytest.raises(UserError, match="changed while the run read it; restore it first"):
                next(source.read(shard, lambda _: True))


def test_the_same_comes_from_a_store_behind_fsspec(data_sets: dict[str, Path], layout: str) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(data_sets[layout]) + "/", "/bucket/data/", recursive=True)
    try:
        source, local = opened("memory://bucket/data"), opened(data_sets[layout])
        assert surveyed(source) == surveyed(local)
        assert contents(read_all(source)) == contents(read_all(local))
    finally:
        store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("name", ["ILSVRC2012_val_00000001.JPEG", "a b.jpg", "käse#1 é%20.png", "50%.webp", "a{1,2}*?.jpg"])
def test_a_single_image_is_a_data_set(tmp_path: Path, name: str) -> None:
    flat_folder(tmp_path, [Picture(name, 3, IMAGES[0].data), Picture("other.jpg", 4, IMAGES[1].data)])
    assert surveyed(opened(tmp_path / name)).images == 1
    for uri in (tmp_path / name, (tmp_path / name).as_uri()):
        assert contents(read_all(opened(uri))) == [(name, None, IMAGES[0].data, None)]


PATTERNS = [f"tar/{name}.tar" for name in ("shard-{000..001}", "shard-*", "shard-00?", "{shard-000,shard-001}")]
PARTS = ["tar/shard-001.tar", "hub parquet/validation-00001-of-00002.parquet"]


@pytest.mark.parametrize("pattern", PATTERNS + PARTS)
def test_patterns_name_several_shards_and_a_file_itself(data_sets: dict[str, Path], pattern: str) -> None:
    layout, _, names = pattern.partition("/")
    every = contents(read_all(opened(data_sets[layout])))
    assert contents(read_all(opened(f"{data_sets[layout]}/{names}"))) == (every if pattern in PATTERNS else every[12:])


NO_DATA_SETS = [
    ("nowhere", "no such file or directory"),
    ("empty", "no images, Parquet files or tar shards"),
    ("texts", "no images, Parquet files or tar shards"),
    ("texts/readme.txt", "not an image, a Parquet file or a tar"),
    ("both", "holds both Parquet and images"),
    ("pictures/x-{0..3}.jpg", "patterns are for Parquet and tar"),
    ("pictures?split=test", "?split= is for Parquet and tar"),
    ("tar/shard-{000..002}.tar", "shard-002.tar: no such file"),
    ("tar/shard-{0..99999999}.tar", "more than 1,000,000 files"),
    ("tar/none-*.tar", "nothing here matches"),
    ("nowhere/none-*.tar", "no such file or directory"),
]


@pytest.mark.parametrize(("uri", "says"), NO_DATA_SETS)
def test_what_is_no_data_set_ends_in_one_clear_line(tmp_path: Path, uri: str, says: str) -> None:
    flat_folder(tmp_path / "empty", [Picture(".hidden.jpg", 0, IMAGES[0].data)])
    flat_folder(tmp_path / "texts", [Picture("readme.txt", 0, b"no image")])
    flat_folder(tmp_path / "pictures", IMAGES[:2])
    corpus.plain_parquet(flat_folder(tmp_path / "both", IMAGES[:2]) / "x.parquet", IMAGES[:2])
    corpus.webdataset(tmp_path / "tar", IMAGES[:4])
    assert says in refusal(tmp_path / uri)


def test_a_limit_below_one_is_refused(data_sets: dict[str, Path]) -> None:
    assert "limit 0" in refusal(data_sets["flat folder"], limit=0)
