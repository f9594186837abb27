"""Data sets as the datasets library keeps them: the same rows and labels as their Parquet form."""

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset

from jobs.pipeline.sources import EncodedImage, surveyed
from tests.pipeline.corpus import CLASS_NAMES, labels_of, opened, pictures, read_all, refusal

IMAGES = pictures(9)


def dataset(count: int = 9) -> Dataset:
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=CLASS_NAMES)})
    rows = {"image": [{"bytes": image.data, "path": None} for image in IMAGES[:count]], "label": [i % 4 for i in range(count)]}
    return Dataset.from_dict(rows, features=features)


def contents(images: list[EncodedImage]) -> list[tuple[bytes, int | None]]:
    return [(bytes(image.data), image.label) for image in images]


def test_a_saved_data_set_has_the_images_labels_and_order_of_its_parquet_form(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved", num_shards=2)
    (tmp_path / "parquet").mkdir()
    dataset().to_parquet(tmp_path / "parquet" / "x.parquet")
    saved, parquet = (read_all(opened(tmp_path / kind)) for kind in ("saved", "parquet"))
    assert contents(saved) == contents(parquet)
    assert saved[0].image_id == "data-00000-of-00002.arrow#0"
    some = opened(tmp_path / "saved", limit=7, images_per_shard=4)
    assert (surveyed(some).images, surveyed(some).labelled) == (7, True)
    assert [shard.images for shard in some.shards()] == [4, 1, 2]
    assert contents(read_all(some)) == contents(parquet)[:7]
    assert contents(read_all(some, lambda ordinal: ordinal == 0)) == [contents(parquet)[row] for row in (0, 4, 5)]


def test_of_a_saved_dictionary_validation_is_taken(tmp_path: Path) -> None:
    DatasetDict({"train": dataset(9), "validation": dataset(5), "test": dataset(2)}).save_to_disk(tmp_path)
    assert surveyed(opened(f"{tmp_path}?split=train")).images == 9
    assert [image.image_id.split("/")[0] for image in read_all(opened(tmp_path))] == ["validation"] * 5


def test_what_load_dataset_left_in_its_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    (tmp_path / "data").mkdir()
    dataset(6).to_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet")
    load_dataset("parquet", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    [file] = (tmp_path / "cache").rglob("*.arrow")
    assert labels_of(opened(file.parent)) == [i % 4 for i in range(6)]


@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 1000])
def test_a_file_that_is_damaged_is_named(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    dataset().save_to_disk(tmp_path)
    [file] = tmp_path.glob("*.arrow")
    file.write_bytes(harm(file.read_bytes()))
    assert file.name in refusal(tmp_path)
