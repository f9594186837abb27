"""Counting many files wherever there are cores, and putting a complete run's predictions into few of them."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.commit import Predictions, chunks_in_parts
from jobs.pipeline.schema import ANSWERS, named_rows
from jobs.reporting import reduction
from jobs.reporting.counts import Counting
from jobs.reporting.reduction import Task, count_files, list_predictions, reduce_predictions
from jobs.reporting.write import write_reports
from jobs.storage.files import open_storage
from tests.conftest import RayCluster
from tests.jobs.prediction_files import chunk, metadata, row, table, write_file, write_manifest
from tests.jobs.reporting.conftest import images, plain
from vit_actor.errors import UserError

CHUNKS, IMAGES = 9, 60


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Nine chunks of three meshes and two attempts, errors among them."""
    out = tmp_path / "run"
    write_manifest(out)
    for number in range(CHUNKS):
        rows = chunk(np.random.default_rng(number), IMAGES, 10, 8, 10.0 * number, 0.05, first_batch=100 * number)
        about = metadata(chunk=f"0.{number:05}", mesh=f"host/{number % 3}", attempt=1 + number // 6, batch_size=8)
        write_file(out, f"0.{number:05}.parquet", rows, about)
    return out


def tables(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (out / "report").iterdir()}


def ids(out: Path) -> list[str]:
    return sorted(pq.read_table(out / "predictions", columns=["image_id"])["image_id"].to_pylist())


def names(out: Path) -> list[str]:
    return sorted(file.name for file in (out / "predictions").iterdir())


def test_a_complete_runs_files_become_one_and_every_report_stays_the_same(run: Path) -> None:
    write_reports(str(run))
    before, rows = tables(run), ids(run)
    for compact in ("run-1", None):
        write_reports(str(run), compact=compact)
        assert (names(run), tables(run), ids(run)) == (["part-000000.parquet"], before, rows)
    assert chunks_in_parts(str(run)) == {f"0.{number:05}" for number in range(CHUNKS)}


def test_rows_keep_their_order_and_a_reader_can_skip_them_by_statistics(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.storage.files.ROW_GROUP", 100)
    in_order = pa.concat_tables([pq.read_table(run / "predictions" / name) for name in names(run)])
    reduce_predictions(str(run), compact="run-1")
    file = pq.ParquetFile(run / "predictions" / "part-000000.parquet")
    assert file.read().to_pylist() == in_order.to_pylist()
    assert file.metadata.num_row_groups == -(-CHUNKS * IMAGES // 100)
    assert file.metadata.row_group(0).column(0).statistics.has_min_max


@pytest.mark.parametrize("died", ["before the files it replaces were deleted", "within their deletion"])
def test_a_compaction_that_was_cut_short_shows_every_row_once_and_is_ended_by_the_next(run: Path, died: str) -> None:
    write_reports(str(run))
    before, rows = tables(run), ids(run)
    whole = run.parent / "whole"
    shutil.copytree(run, whole)
    write_reports(str(run), compact="run-1")
    for file in list((whole / "predictions").iterdir())[: CHUNKS if died.startswith("before") else 4]:
        shutil.copy(file, run / "predictions")
    write_reports(str(run))
    assert tables(run) == before
    write_reports(str(run), compact="run-1")
    assert tables(run) == before
    assert (names(run), ids(run)) == (["part-000000.parquet"], rows)


def test_a_class_has_the_name_that_its_checkpoint_gives_it_and_none_beyond() -> None:
    rows = table([row(0, 1), row(2, 9), row(None, None)]).select(ANSWERS.names)
    got = named_rows(rows, pa.array(["crane", "crane", "fox"])).to_pydict()
    assert got["label_name"] == ["crane", "fox", None]
    assert got["predicted_name"] == ["crane", None, None]
    assert set(named_rows(rows, pa.array([], pa.string()))["label_name"].to_pylist()) == {None}


def test_chunks_that_come_later_are_put_into_a_file_of_their_own(run: Path) -> None:
    late = {name: (run / "predictions" / name).read_bytes() for name in names(run)[:3]}
    for name in late:
        (run / "predictions" / name).unlink()
    reduce_predictions(str(run), compact="run-1")
    predictions = Predictions(str(run), chunks_in_parts(str(run)))
    assert [predictions.is_committed(f"0.{number:05}") for number in range(CHUNKS)] == [False] * 3 + [True] * 6
    for name, data in late.items():
        (run / "predictions" / name).write_bytes(data)
    assert images(reduce_predictions(str(run), compact="run-1")) == CHUNKS * IMAGES
    assert names(run) == ["part-000000.parquet", "part-000001.parquet"]
    assert len(set(ids(run))) == CHUNKS * IMAGES


def test_files_of_another_run_and_damaged_ones_are_left_as_they_are(run: Path) -> None:
    before = names(run)
    assert images(reduce_predictions(str(run), compact="another")) == CHUNKS * IMAGES
    assert names(run) == before
    (run / "predictions" / before[0]).write_bytes(b"half")
    with pytest.raises(Exception, match=before[0]):
        reduce_predictions(str(run), compact="run-1")
    assert names(run) == before


def test_many_files_are_counted_and_compacted_on_a_cluster(
    run: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: RayCluster
) -> None:
    alone = plain(reduce_predictions(str(run)))
    monkeypatch.setattr(reduction, "FEW_FILES", 0)
    monkeypatch.setattr(reduction, "FILES_IN_A_TASK", 1)
    monkeypatch.setattr(reduction, "FILES_IN_A_PART", 4)
    sound = (run / "predictions" / names(run)[2]).read_bytes()
    (run / "predictions" / names(run)[2]).write_bytes(b"half")
    with pytest.raises(UserError, match="damaged") as raised:
        reduce_predictions(str(run), address=ray_cluster.address)
    assert f"predictions/{names(run)[2]}; add" in str(raised.value)
    (run / "predictions" / names(run)[2]).write_bytes(sound)
    assert plain(reduce_predictions(str(run), address=ray_cluster.address, compact="run-1")) == alone
    parts, chunks, replaced = list_predictions(*open_storage(str(run)))
    assert (len(parts), len(chunks), replaced) == (2, 1, [])


def test_a_task_that_is_retried_after_it_wrote_its_file_counts_the_same(run: Path) -> None:
    whole = plain(reduce_predictions(str(run)))
    files = tuple(str(run / "predictions" / name) for name in names(run))
    task = Task(str(run), files, str(run / "predictions" / "part-000000.parquet"), "run-1")
    kept = (run / "predictions" / names(run)[3]).read_bytes()
    assert plain(count_files(task, Counting())) == whole
    Path(files[3]).write_bytes(kept)  # its process died before this one was deleted
    assert plain(count_files(task, Counting())) == whole
    assert names(run) == ["part-000000.parquet"]
