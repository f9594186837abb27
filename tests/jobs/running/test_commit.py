"""The predictions on disk: a chunk is there whole or not at all, and what its file says of it is read back."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.commit import FOOTER, Predictions, chunks_in_parts, committed_files, committed_rows, footers_of, part_footer
from jobs.pipeline.commit import read_footers as read_footers_of
from jobs.storage.files import open_storage
from tests.jobs.prediction_files import row, table
from vit_actor.errors import UserError

ROWS = table([row(n, n, image_id=f"{n}.jpeg") for n in range(3)])
FOOTERS = [
    {"run_id": "a", "mesh": "x/0-3", "chunk": "s.00000", "rows": 3, "read_cpu_seconds": 0.5, "shared_batches": {"1": [0, 9]}},
    {"run_id": "a", "mesh": "y/0-3", "chunk": "s.00001", "rows": 2, "read_cpu_seconds": 0.25, "shared_batches": None},
    {"run_id": "a", "mesh": "x/0-3", "chunk": "s.00002", "rows": 4, "read_cpu_seconds": None, "shared_batches": None},
]


def write_part(out: Path, name: str = "part-000000.parquet") -> Path:
    """A file of two chunks."""
    path = out / "predictions" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pa.concat_tables([ROWS, ROWS.slice(0, 2)])
    pq.write_table(rows.replace_schema_metadata({FOOTER: part_footer(FOOTERS[:2])}), path)
    return path


def test_a_chunk_is_committed_once_it_is_written_and_its_file_says_what_it_is(tmp_path: Path) -> None:
    predictions = Predictions(str(tmp_path), frozenset({"in-a-part"}))
    assert [predictions.is_committed(chunk) for chunk in ("s.00000", "in-a-part")] == [False, True]
    for _ in range(2):  # again overwrites its own file
        predictions.commit("s.00000", ROWS, FOOTERS[0])
    assert predictions.is_committed("s.00000")
    assert not replace(predictions, doubtful=frozenset({"s.00000"})).is_committed("s.00000")
    assert not predictions.is_committed("s.00001")
    (file,) = (tmp_path / "predictions").iterdir()
    assert file.name == "s.00000.parquet"
    found = pq.ParquetFile(file)
    assert found.read().to_pylist() == ROWS.to_pylist()
    assert footers_of(found.metadata) == [FOOTERS[0]]
    assert committed_rows(str(tmp_path), bool) == (3, 0)
    assert committed_files(str(tmp_path)) == [1, file.stat().st_size]


def test_a_part_that_was_not_renamed_is_no_committed_chunk(tmp_path: Path) -> None:
    assert (chunks_in_parts(str(tmp_path)), committed_files(str(tmp_path))) == (set(), [0, 0])
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / f".s.00000.parquet.{'0' * 32}.part").write_bytes(b"PAR1")
    assert not Predictions(str(tmp_path)).is_committed("s.00000")
    assert (committed_rows(str(tmp_path), bool), committed_files(str(tmp_path))) == ((0, 0), [0, 0])


def test_a_file_of_many_chunks_names_each_with_its_rows(tmp_path: Path) -> None:
    path = write_part(tmp_path)
    assert footers_of(pq.read_metadata(path)) == FOOTERS[:2]
    Predictions(str(tmp_path)).commit("s.00002", ROWS, FOOTERS[2])
    assert chunks_in_parts(str(tmp_path)) == {"s.00000", "s.00001"}
    assert committed_rows(str(tmp_path), lambda footer: footer["chunk"] == "s.00001") == (8, 2)
    assert part_footer(FOOTERS).count(b"x/0-3") == 1, "what chunks share stands once"


def test_a_damaged_file_is_told_and_not_counted(tmp_path: Path) -> None:
    path = write_part(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    for look in (chunks_in_parts, partial(committed_rows, is_checked=bool)):
        with pytest.raises(UserError, match="a file of predictions is damaged"):
            look(str(tmp_path))
    assert read_footers_of(open_storage(str(tmp_path))[0], str(path)) == []
