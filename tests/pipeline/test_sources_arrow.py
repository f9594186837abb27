"""Data sets as the datasets library keeps them: the same rows and labels as their Parquet form."""

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from jobs.pipeline.sources import surveyed
from tests.pipeline.corpus import CLASS_NAMES, labels_of, opened, pictures, read_all, refusal

IMAGES = pictures(9)


def dataset(count: int = 9) -> Dataset:
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=CLASS_NAMES)})
    rows = {"image": [{"bytes": image.data, "path": None} for image in IMAGES[:count]], "label": [i % 4 for i in range(count)]}
    return Dataset.from_dict(rows, features=features)


def test_a_saved_data_set_has_the_images_labels_and_order_of_its_parquet_form(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved", num_shards=2)
    (tmp_path / "parquet").mkdir()
    dataset().to_parquet(tmp_path / "parquet" / "x.parquet")
    saved, parquet = opened(tmp_path / "saved"), opened(tmp_path / "parquet")
    one, other = (read_all(source) for source in (saved, parquet))
    assert [(bytes(image.data), image.label) for image in one] == [(bytes(image.data), image.label) for image in other]
    assert one[0].image_id == "data-00000-of-00002.arrow#0"
    assert (surveyed(saved).images, surveyed(saved).labelled) == (9, True)


def test_of_a_saved_dictionary_validation_is_taken(tmp_path: Path) -> None:
    DatasetDict({"train": dataset(9), "validation": dataset(5), "test": dataset(2)}).save_to_disk(tmp_path)
    assert surveyed(opened(tmp_path)).images == 5
    assert surveyed(opened(f"{tmp_path}?split=train")).images == 9
    assert {image.image_id.split("/")[0] for image in read_all(opened(tmp_path))} == {"validation"}


def test_what_load_dataset_left_in_its_cache_is_read(tmp_path: Path) -> None:
    from datasets import load_dataset

    (tmp_path / "data").mkdir()
    dataset(6).to_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet")
    load_dataset("parquet", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    [file] = (tmp_path / "cache").rglob("*.arrow")
    assert labels_of(opened(file.parent)) == [i % 4 for i in range(6)]


def test_a_limit_and_wanted_ordinals_are_kept(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path, num_shards=2)
    source = opened(tmp_path, limit=7, images_per_shard=4)
    assert surveyed(source).images == 7
    assert sum(shard.images or 0 for shard in source.shards()) == 7
    assert len(read_all(source, lambda ordinal: ordinal == 0)) == len(list(source.shards()))


@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 1000])
def test_a_file_that_is_damaged_is_named(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    dataset().save_to_disk(tmp_path)
    [file] = tmp_path.glob("*.arrow")
    file.write_bytes(harm(file.read_bytes()))
    assert file.name in refusal(tmp_path)
