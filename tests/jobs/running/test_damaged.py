"""What a run that goes on classifies again: damaged files and images that storage failed to give; all else stays."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.commit import FOOTER, footers_of, part_footer
from jobs.running import damaged
from jobs.running.damaged import discard
from tests.jobs.prediction_files import metadata, row, table, write_file

SOUND, SPOILT, PART = "a-000000-0123456789abcdef.00000.parquet", "a-000000-0123456789abcdef.00001.parquet", "part-000000.parquet"
ROWS = [row(label, label, at=label) for label in range(50)]
UNREAD = [*ROWS[:48], *(row(label, None, error="cannot be read: storage refuses it (no)") for label in range(2))]
DELETED = "damaged files, deleted so that their images are classified again: "


def names(out: Path) -> list[str]:
    return sorted(file.name for file in (out / "predictions").iterdir())


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
    write_file(tmp_path, SOUND, ROWS, metadata())
    spoilt = write_file(tmp_path, name, ROWS, metadata())
    spoilt.write_bytes(harm(spoilt.read_bytes()))
    assert discard(str(tmp_path), []) == [DELETED + name]
    assert names(tmp_path) == [SOUND]


def test_a_chunk_with_images_that_storage_failed_to_give_goes_and_others_of_its_file_stay(tmp_path: Path) -> None:
    write_file(tmp_path, SOUND, [*ROWS, row(1, None, error="truncated file")], metadata())
    write_file(tmp_path, SPOILT, UNREAD, metadata())
    footers = [{"run_id": "r", "attempt": 1, "mesh": "a/0-3", "chunk": f"c.{n}", "rows": 50} for n in range(3)]
    rows = pa.concat_tables([table(ROWS), table(UNREAD), table(ROWS[::-1])])
    pq.write_table(rows.replace_schema_metadata({FOOTER: part_footer(footers)}), tmp_path / "predictions" / PART)
    assert discard(str(tmp_path), []) == ["storage had failed to give 4 of the images, which are read again"]
    assert names(tmp_path) == [SOUND, PART]
    left = pq.ParquetFile(tmp_path / "predictions" / PART)
    assert [footer["chunk"] for footer in footers_of(left.metadata)] == ["c.0", "c.2"]
    assert left.read().to_pylist() == table(ROWS + ROWS[::-1]).to_pylist()


@pytest.mark.parametrize("state", ["running", "failed", "stopped", "classified", "incomplete", "finished", None])
def test_what_no_run_wrote_stays_and_so_does_everything_where_there_is_too_much_to_read_and_all_of_it_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    assert discard(str(tmp_path), []) == []
    write_file(tmp_path, SOUND, [row(1, 1)], metadata())
    (tmp_path / "predictions" / "notes.parquet").write_bytes(b"PAR1 of my own")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "predictions" / "mine.parquet")
    assert discard(str(tmp_path), []) == []
    (tmp_path / "predictions" / SPOILT).write_bytes(b"")
    monkeypatch.setattr(damaged, "MOST_FILES", 3)
    looked = state in ("running", "failed", "stopped")
    assert discard(str(tmp_path), [{"state": state}] if state else []) == [DELETED + SPOILT] * looked
    assert len(names(tmp_path)) == 4 - looked
