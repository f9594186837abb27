"""Data that claims more than it holds: memory and time follow what a file really has. Each is read in a process with a limit."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import ROOT
from tests.pipeline.corpus import jpeg

MOST_BYTES = 700 * 2**20
"""Peak memory of the process that reads; importing Arrow and Pillow takes a third of it."""
MOST_SECONDS = 60

READ = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
from jobs.pipeline.sources import open_source
from vit_actor.errors import UserError
found = {"images": 0, "errors": [], "refused": None}
try:
    source = open_source(sys.argv[1], checkpoint_classes=[str(i) for i in range(10)], labels=sys.argv[2] or None)
    for shard in source.shards():
        for _, image in source.read(shard, lambda ordinal: True):
            found["images"] += 1
            if image.error and len(found["errors"]) < 3:
                found["errors"].append(image.error)
except UserError as error:
    found["refused"] = str(error)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # of this program, not of what forked it
found["peak"] = int(peak.split()[1]) * 1024
print(json.dumps(found))
"""


def read(data: Path, labels: Path | str = "") -> dict:
    command = [sys.executable, "-c", READ, str(data), str(labels)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MOST_SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def one_dictionary_value(path: Path) -> None:
    value = pa.array([bytes(64 * 2**20)], pa.binary())
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 512, pa.int32()), value)
    pq.write_table(pa.table({"image": images}), path, compression="zstd", dictionary_pagesize_limit=2**30, store_schema=False)


def one_page(path: Path) -> None:
    table = pa.table({"image": pa.array([bytes(300 * 2**20), b"x"], pa.binary())})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)


def one_label(path: Path) -> None:
    table = pa.table({"image": [jpeg(0)], "label": ["x" * (300 * 2**20)]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)


def many_columns(path: Path) -> None:
    """A footer of 20 row groups that each claim a million columns, three bytes each, in Thrift's compact protocol."""
    root, image = b"\x48\x01r\x15\x02\x00", b"\x15\x0c\x25\x02\x18\x05image\x00"
    column, million = b"\x26\x00\x00", b"\xc0\x84\x3d"
    group = b"\x19\xfc" + million + column * 10**6 + b"\x16\x00\x16\x00\x00"
    footer = b"\x15\x04\x19\x2c" + root + image + b"\x16\x00\x19\xfc\x14" + group * 20 + b"\x00"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def sparse_members(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for i in range(200):
            info = tarfile.TarInfo(f"one.{i}.jpg")
            info.size = 10 * 2**20
            tar.addfile(info, io.BytesIO(bytes(info.size)))


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (one_dictionary_value, "x.parquet", "a dictionary of about"),
        (one_page, "x.parquet", "that claim to be"),
        (one_label, "x.parquet", "bytes of labels in 1 rows"),
    ],
)
def test_parquet_that_claims_much_is_told_by_its_footer(
    tmp_path: Path, make: Callable[[Path], None], name: str, says: str
) -> None:
    make(tmp_path / name)
    found = read(tmp_path)
    assert found["peak"] < MOST_BYTES
    told = [found["refused"]] if found["refused"] else found["errors"]
    assert says in told[0]


def test_a_footer_that_takes_gigabytes_is_refused_by_the_survey(tmp_path: Path) -> None:
    many_columns(tmp_path / "x.parquet")
    found = read(tmp_path)
    assert found["peak"] < MOST_BYTES
    assert "x.parquet: not a readable Parquet file (its footer of 60,000," in found["refused"]


def test_many_large_members_of_one_stem_are_not_held_together(tmp_path: Path) -> None:
    sparse_members(tmp_path / "x.tar")
    found = read(tmp_path)
    assert found["images"] == 200
    assert found["peak"] < MOST_BYTES


def test_a_labels_file_of_one_line_without_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "x.jpg").write_bytes(jpeg(0))
    with (tmp_path / "labels.csv").open("wb") as file:
        file.truncate(400 * 2**20)
    found = read(data, tmp_path / "labels.csv")
    assert "longer than" in found["refused"]
    assert found["peak"] < MOST_BYTES


def test_metadata_that_is_nested_without_end_is_no_fault(tmp_path: Path) -> None:
    table = pa.table({"image": [jpeg(0)], "label": [3]}).replace_schema_metadata({"huggingface": "[" * 200_000})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path) | {"peak": 0} == {"images": 1, "errors": [], "refused": None, "peak": 0}


@pytest.mark.parametrize("names", [5, {"a": 1}])
def test_class_names_that_are_none_are_not_used(tmp_path: Path, names: object) -> None:
    about = json.dumps({"info": {"features": {"label": {"names": names}}}})
    table = pa.table({"image": [jpeg(0)], "label": [3]}).replace_schema_metadata({"huggingface": about})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path)["images"] == 1
