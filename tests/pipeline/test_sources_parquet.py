"""Parquet shards: which columns are meant, labels that fit, rows that are damaged, and reading no more than needed."""

import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.sources import surveyed
from tests.pipeline.corpus import WNIDS, labels_of, opened, pictures, plain_parquet, read_all, refusal
from vit_actor.errors import UserError

IMAGES = pictures(12)
BYTES = [image.data for image in IMAGES]


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (pa.array([0, 1000]), "label 1000 is outside the checkpoint's classes 0-999"),
        (pa.array([-2, 5]), "label -2 is outside"),
        (pa.array(["0", "walrus"]), "'walrus' is no class"),
        (pa.array([0.0, 1.5]), "label 1.5 is no whole number"),
        (pa.array([True, False]), "is bool; it must be whole numbers or text"),
    ],
    ids=["high", "low", "word", "part", "bool"],
)
@pytest.mark.parametrize("statistics", [True, False])
def test_a_label_outside_the_classes_ends_before_any_work(tmp_path: Path, stored: pa.Array, says: str, statistics: bool) -> None:
    written(tmp_path / "x.parquet", {"image": pa.array(BYTES[:2]), "label": stored}, write_statistics=statistics)
    assert re.search(f"x.parquet: .*{says}", refusal(tmp_path))
    assert labels_of(opened(tmp_path, labels="none")) == [None, None]


@pytest.mark.parametrize(
    "columns",
    [
        {"bytes": BYTES},
        {"thumbnail": BYTES[::-1], "image": BYTES},
        {"photo": pa.array(BYTES, pa.large_binary()), "width": [1] * 12},
        {"img": [{"path": "x", "bytes": data} for data in BYTES], "caption": ["x"] * 12},
    ],
    ids=["bytes", "by name", "the only one", "struct"],
)
def test_the_image_column_is_found(tmp_path: Path, columns: dict[str, Any]) -> None:
    source = opened(written(tmp_path / "x.parquet", columns))
    assert [bytes(image.data) for image in read_all(source)] == BYTES


COLUMNS = [
    (["text"], [["x"]], None, "no image column .* columns are text"),
    (["photo", "scan"], [BYTES[:1], BYTES[:1]], None, "photo, scan could all be the image"),
    (["image", "answer"], [BYTES[:1], [1]], "label", "no label column 'label'; columns are image, answer"),
    (["image"], [pa.array([], pa.binary())], None, "have no rows"),
    (["image", "label", "image"], [BYTES[:1], [1], BYTES[1:2]], None, "two columns are named 'image'"),
    (["image", "label", "label"], [BYTES[:1], [1], [2]], None, "two columns are named 'label'"),
]


@pytest.mark.parametrize(("names", "columns", "labels", "says"), COLUMNS)
def test_columns_that_are_missing_or_twice_are_told(
    tmp_path: Path, names: list[str], columns: list[Any], labels: str | None, says: str
) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], names), tmp_path / "x.parquet")
    assert re.search(says, refusal(tmp_path, labels=labels))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet" * 100])
def test_what_is_no_parquet_file_ends_before_any_work(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    assert "x.parquet: not a readable Parquet file" in refusal(tmp_path)


def test_a_row_with_only_a_path_or_nothing_is_one_error(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": BYTES[0], "path": "a"}, {"bytes": None, "path": "b.jpg"}, None, {"bytes": b"", "path": "c"}]
    found = read_all(opened(written(tmp_path / "x.parquet", {"image": pa.array(images, kind), "label": [1, 2, 3, 4]})))
    none = "no image bytes in this row, at most a path"
    assert [(image.label, image.error) for image in found] == [(1, None), (2, none), (3, none), (4, None)]


def test_a_damaged_row_group_is_an_error_in_each_of_its_rows_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    options = {"row_group_size": 4, "compression": "zstd", "use_dictionary": False}
    written(path, {"image": BYTES, "label": [i.label for i in IMAGES]}, **options)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40  # the header of its first page
    path.write_bytes(data)
    source = opened(path)
    assert surveyed(source).images == 12
    found = read_all(source)
    assert [image.image_id for image in found] == [f"x.parquet#{row}" for row in range(12)]
    assert [image.error is None for image in found] == [True] * 4 + [False] * 4 + [True] * 4
    assert "row group 1 cannot be read" in (found[5].error or "")


@pytest.mark.parametrize(("group", "shards"), [(1, [5, 5, 2]), (2, [4, 4, 4]), (5, [5, 5, 2]), (7, [7, 5]), (100, [12])])
def test_shards_are_row_groups_that_make_one_chunk_or_one_that_makes_more(tmp_path: Path, group: int, shards: list[int]) -> None:
    plain_parquet(tmp_path / "x.parquet", IMAGES, row_group_size=group)
    source = opened(tmp_path, images_per_shard=5)
    found = list(source.shards())
    assert [sum(1 for _ in source.read(shard, lambda _: True)) for shard in found] == shards
    assert [shard.images for shard in found] == shards


def test_a_file_of_the_same_size_with_other_row_groups_is_told_and_not_read(tmp_path: Path) -> None:
    path, table = tmp_path / "x.parquet", pa.table({"image": BYTES})

    def size(rows: int, pad: int) -> int:
        with pq.ParquetWriter(path, table.schema) as file:
            file.write_table(table, rows)
            file.add_key_value_metadata({"pad": "x" * pad})
        return path.stat().st_size

    missing = size(4, 1000) - size(6, 1000)
    listed, source = size(4, 1000), opened(tmp_path)
    [shard] = source.shards()
    assert size(6, 1000 + missing) == listed
    with pytest.raises(UserError, match=r"x\.parquet: changed while the run read it"):
        list(source.read(shard, lambda _: True))


def test_row_groups_with_no_wanted_row_are_not_read(tmp_path: Path) -> None:
    """Their bytes may be anything: here they are gone."""
    path = plain_parquet(tmp_path / "x.parquet", IMAGES, row_group_size=4)
    metadata = pq.ParquetFile(path).metadata
    end = metadata.row_group(2).column(0).dictionary_page_offset or metadata.row_group(2).column(0).data_page_offset
    data = path.read_bytes()
    path.write_bytes(b"\x00" * end + data[end:])
    found = read_all(opened(path), lambda ordinal: ordinal >= 8)
    assert [(image.image_id, bytes(image.data)) for image in found] == [(f"x.parquet#{i}", BYTES[i]) for i in range(8, 12)]


def test_a_large_row_group_is_read_page_by_page(tmp_path: Path) -> None:
    """Of a row group of 40 MB, no more than a read, a page and a few rows are in memory at once."""
    images = [os.urandom(40_000) for _ in range(1_000)]
    written(tmp_path / "x.parquet", {"bytes": images}, row_group_size=1_000, use_dictionary=False, write_batch_size=32)
    source = opened(tmp_path)
    [shard] = source.shards()
    before = pa.total_allocated_bytes()
    read = [(len(image.data), pa.total_allocated_bytes() - before) for _, image in source.read(shard, lambda _: True)]
    assert sum(size for size, _ in read) == 40_000_000
    assert max(allocated for _, allocated in read) < 20_000_000


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([0, 999, 5, 0], pa.uint16()), [0, 999, 5, 0]),
        (pa.array([WNIDS[4], "thing 5", "thing 6", WNIDS[4]]).dictionary_encode(), [4, 5, 6, 4]),
        (pa.array([3.0, None, float("nan"), 0.0]), [3, None, None, 0]),
        (pa.array(["3", None, "-1", "0"], pa.string_view()), [3, None, None, 0]),
        (pa.array(["3", None, "-1", "0"], pa.large_string()), [3, None, None, 0]),
        (pa.array([3, -1, None, 0], pa.int8()), [3, None, None, 0]),
        (pa.array([3, -1, None, 0], pa.int64()), [3, None, None, 0]),
    ],
    ids=["uint16", "dictionary", "float", "string view", "large string", "int8", "int64"],
)
@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_labels_and_images_of_every_type(
    tmp_path: Path, labels: pa.Array, expected: list[int | None], binary: pa.DataType
) -> None:
    pq.write_table(pa.table({"image": pa.array(BYTES[:4], binary), "label": labels}), tmp_path / "x.parquet")
    source = opened(tmp_path)
    assert surveyed(source).labelled
    images = read_all(source)
    assert [(bytes(image.data), image.label) for image in images] == list(zip(BYTES[:4], expected, strict=True))


def test_a_label_that_is_a_hive_partition(tmp_path: Path) -> None:
    for label in ("7", "__HIVE_DEFAULT_PARTITION__"):
        written(tmp_path / f"label={label}" / "x.parquet", {"image": BYTES[:1]})
    assert labels_of(opened(tmp_path)) == [7, None]
    written(tmp_path / "label=7" / "x.parquet", {"image": BYTES[:1], "cls": [3]})
    assert "the folders' names and column 'cls'" in refusal(tmp_path)


def test_of_a_local_copy_with_several_splits_one_is_taken(tmp_path: Path) -> None:
    for split, rows in (("train", 3), ("validation", 2), ("test", 1)):
        written(tmp_path / "data" / f"{split}-00000-of-00001.parquet", {"image": BYTES[:rows]})
    for query, rows in (("", 2), ("?split=validation", 2), ("?split=val", 2), ("?split=train", 3), ("?split=test", 1)):
        survey = surveyed(opened(f"{tmp_path}{query}"))
        assert survey.images == rows
        assert sum(files for kind, files in survey.left_out.items() if kind.startswith("files of split ")) == 2
    assert "no split 'other'; it has test, train, validation" in refusal(f"{tmp_path}?split=other")
