"""Damaged predictions are deleted before a run goes on; what is sound, and what no run can have written, stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.running.damaged import discard
from tests.jobs.prediction_files import metadata, row, write_file

SOUND, SPOILT, PART = "a-000000-0123456789abcdef.00000.parquet", "a-000000-0123456789abcdef.00001.parquet", "part-000000.parquet"


@pytest.mark.parametrize("name", [SPOILT, PART])
@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:100] + bytes(50) + data[150:],
        lambda data: data.replace(b"attempt", b"attermp"),
        lambda data: data.replace(b"loudbox-vit", b"loudbox-vat"),
    ],
)
def test_what_cannot_be_read_is_deleted_and_nothing_else(tmp_path: Path, name: str, harm: Callable[[bytes], bytes]) -> None:
    rows = [row(label, label, at=label) for label in range(50)]
    write_file(tmp_path, SOUND, rows, metadata())
    write_file(tmp_path, name, rows, metadata())
    spoilt = tmp_path / "predictions" / name
    spoilt.write_bytes(harm(spoilt.read_bytes()))
    assert discard(str(tmp_path), []).damaged == [name]
    assert [file.name for file in (tmp_path / "predictions").iterdir()] == [SOUND]


def test_what_no_run_wrote_stays(tmp_path: Path) -> None:
    write_file(tmp_path, SOUND, [row(1, 1)], metadata())
    folder = tmp_path / "predictions"
    (folder / "notes.parquet").write_bytes(b"PAR1 of my own")
    pq.write_table(pa.table({"x": [1]}), folder / "mine.parquet")
    assert discard(str(tmp_path), []).damaged == []
    assert len(list(folder.iterdir())) == 3


def test_an_output_without_predictions_has_no_damaged_ones(tmp_path: Path) -> None:
    assert discard(str(tmp_path), []).damaged == []
