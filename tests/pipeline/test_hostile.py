"""Data that claims more than it holds: memory and time follow what a file really has. Each is read in a process with a limit."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import run_code
from tests.pipeline.corpus import jpeg, tar

MOST_BYTES = 700 * 2**20  # Peak memory of the process that reads; importing Arrow and Pillow takes a third of it
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


def read(data: Path, labels: str | Path = "") -> dict:
    done = run_code(READ, data, labels)
    assert done.code == 0, done.stderr[-2000:]
    assert done.seconds < MOST_SECONDS
    found = json.loads(done.stdout)
    assert found.pop("peak") < MOST_BYTES
    return found


def parquet(path: Path, images: Any, *, use_dictionary: bool = False, **columns: Any) -> None:
    pq.write_table(
        pa.table({"image": images, **columns}), path, compression="zstd", use_dictionary=use_dictionary,
        write_statistics=False, dictionary_pagesize_limit=2**30, store_schema=False,
    )  # fmt: skip


def one_dictionary_value(path: Path) -> None:
    value = pa.array([bytes(64 * 2**20)], pa.binary())
    parquet(path, pa.DictionaryArray.from_arrays(pa.array([0] * 512, pa.int32()), value), use_dictionary=True)


def many_columns(path: Path) -> None:
    """A footer of 20 row groups that each claim a million columns, three bytes each, in Thrift's compact protocol."""
    root, image = b"\x48\x01r\x15\x02\x00", b"\x15\x0c\x25\x02\x18\x05image\x00"
    column, million = b"\x26\x00\x00", b"\xc0\x84\x3d"
    group = b"\x19\xfc" + million + column * 10**6 + b"\x16\x00\x16\x00\x00"
    footer = b"\x15\x04\x19\x2c" + root + image + b"\x16\x00\x19\xfc\x14" + group * 20 + b"\x00"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")


CLAIMS: list[tuple[Callable[[Path], None], str]] = [
    (one_dictionary_value, "a dictionary of about"),
    (lambda path: parquet(path, pa.array([bytes(300 * 2**20), b"x"], pa.binary())), "that claim to be"),
    (lambda path: parquet(path, [jpeg(0)], label=["x" * (300 * 2**20)]), "bytes of labels in 1 rows"),
]


@pytest.mark.parametrize(("make", "says"), CLAIMS, ids=["dictionary", "page", "label"])
def test_parquet_that_claims_much_is_told_by_its_footer(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    make(tmp_path / "x.parquet")
    found = read(tmp_path)
    assert says in (found["refused"] or found["errors"][0])


def test_a_footer_that_takes_gigabytes_is_refused_by_the_survey(tmp_path: Path) -> None:
    many_columns(tmp_path / "x.parquet")
    assert "x.parquet: not a readable Parquet file (its footer of 60,000," in read(tmp_path)["refused"]


def test_many_large_members_of_one_stem_are_not_held_together(tmp_path: Path) -> None:
    tar(tmp_path / "x.tar", [(f"one.{i}.jpg", bytes(10 * 2**20)) for i in range(200)])
    assert read(tmp_path)["images"] == 200


def test_a_labels_file_of_one_line_without_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg(0))
    (tmp_path / "labels.csv").touch()
    os.truncate(tmp_path / "labels.csv", 400 * 2**20)
    assert "longer than" in read(tmp_path, tmp_path / "labels.csv")["refused"]


NO_NAMES = [json.dumps({"info": {"features": {"label": {"names": names}}}}) for names in (5, {"a": 1})]


@pytest.mark.parametrize("about", ["[" * 200_000, *NO_NAMES], ids=["nested without end", "a number", "an object"])
def test_metadata_that_says_nothing_is_no_fault(tmp_path: Path, about: str) -> None:
    table = pa.table({"image": [jpeg(0)], "label": [3]}).replace_schema_metadata({"huggingface": about})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path) == {"images": 1, "errors": [], "refused": None}
