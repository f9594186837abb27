"""A report says what the predictions say, to the same bytes each time, and the page shows it safely."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from jobs.reporting.schema import WAITS, Summary
from jobs.reporting.tables import TABLES
from jobs.reporting.terminal_table import summary_table
from jobs.reporting.write import write_reports
from tests.commands import run_code
from tests.jobs.prediction_files import START, metadata, row, write_file, write_manifest
from tests.jobs.reporting.conftest import a_run, page, read
from vit_actor.errors import UserError

FINISHED = {"attempt": 1, "started_at": "", "ended_at": "then", "state": "finished"}


def test_accuracy_is_over_labelled_images_and_an_error_is_wrong(tmp_path: Path) -> None:
    rows = [row(0, 0), row(0, 0), row(0, 1), row(1, 1), row(1, None), row(None, 0), row(None, None, error="empty file")]
    write_file(tmp_path, "a.parquet", [*rows, row(2, 3), row(2, 5), row(2, 5)], metadata())
    write_manifest(tmp_path, images=12)
    summary = write_reports(str(tmp_path))
    assert (summary.images, summary.planned, summary.errors, summary.labelled) == (10, 12, 2, 8)
    assert (summary.correct, summary.top1) == (3, 0.375)
    assert (summary.top1_low, summary.top1_high) == pytest.approx((0.1368, 0.6943), abs=1e-4)
    assert read(tmp_path, "summary")[0]["top1"] == 0.375
    zero, one, two = read(tmp_path, "per_class")[:3]
    assert (zero["name"], zero["images"], zero["correct"], zero["predicted"]) == ("class 0", 3, 2, 3)
    assert (zero["confused_with"], zero["confused_with_name"], zero["confused_images"]) == (1, "class 1", 1)
    assert (one["images"], one["errors"], one["accuracy"], one["confused_with"]) == (2, 1, 0.5, None)
    assert read(tmp_path, "per_class")[9]["accuracy"] is None
    assert (two["confused_with"], two["confused_images"]) == (5, 2)
    pairs = [(0, 0, 2), (2, 5, 2), (0, 1, 1), (1, 1, 1), (2, 3, 1)]
    assert [(r["label"], r["prediction"], r["count"]) for r in read(tmp_path, "confusion")] == pairs
    assert read(tmp_path, "errors") == [
        {"reason": "empty file", "images": 1, "example": "None/0-0.0.jpg"},
        {"reason": "truncated file", "images": 1, "example": "1/0-0.0.jpg"},
    ]
    assert "10 of 12 images so far" in page(tmp_path)


def test_without_labels_or_answers_there_is_still_a_report(tmp_path: Path) -> None:
    write_file(tmp_path / "bare", "a.parquet", [row(None, 3), row(None, 3), row(None, 1)], metadata())
    summary = write_reports(str(tmp_path / "bare"))
    assert (summary.top1, summary.top5, summary.labelled) == (None, None, 0)
    assert read(tmp_path / "bare", "per_class")[3]["predicted"] == 2
    assert "no labels" in page(tmp_path / "bare")
    assert "top-1" not in summary_table(summary)
    write_file(tmp_path / "bad", "a.parquet", [row(1, None), row(2, None)], metadata())
    summary = write_reports(str(tmp_path / "bad"))
    assert (summary.errors, summary.top1, summary.system_fps, summary.inference_ms) == (2, 0.0, None, None)
    assert "2 with an error" in summary_table(summary)
    assert "2 images could not be classified" in page(tmp_path / "bad")


def test_calibration_is_the_gap_between_confidence_and_accuracy(tmp_path: Path) -> None:
    def sure(confidence: float, right: bool) -> dict:
        return row(0, 0 if right else 1, top5_probability=[confidence, 0.0, 0.0, 0.0, 0.0])

    rows = [*[sure(0.75, i < 3) for i in range(4)], *[sure(1.0, i < 2) for i in range(4)], row(0, None), row(None, 3)]
    write_file(tmp_path, "a.parquet", rows, metadata())
    assert write_reports(str(tmp_path)).ece == 0.25  # half of the images are as right as they are sure, the others half as right
    bins = [tuple(each.values()) for each in read(tmp_path, "calibration")]
    assert [(number, *each[2:6]) for number, each in enumerate(bins) if each[2]] == [(11, 4, 3, 0.75, 0.75), (14, 4, 2, 1.0, 0.5)]
    assert len(bins) == 15


def test_each_meshs_time_is_compile_busy_and_waiting_and_decoding_beside_it(tmp_path: Path) -> None:
    for number, at in enumerate((0.0, 3.0)):
        write_file(tmp_path, f"{number}.parquet", [row(0, 0, batch=number, at=at, seconds=1.0)], metadata(read_cpu_seconds=0.5))
    late = metadata("b/0", compile_seconds=9.0, read_cpu_seconds=0.75, opened_at=START.timestamp() + 0.5)
    write_file(tmp_path, "b.parquet", [row(0, 0, at=1, seconds=2.0)], late)
    write_file(tmp_path, "c.parquet", [row(0, 0, at=60)], metadata("b/0", attempt=2, read_cpu_seconds=0.125))
    write_manifest(tmp_path, attempts=[FINISHED | {"down_seconds": {"host-a/0-3": 0.5}}])
    summary = write_reports(str(tmp_path))
    waits = tuple(f"wait_{reason}_seconds" for reason in WAITS)
    names = ("attempt", "mesh", "images", "batches", "compile_seconds", "busy_seconds", *waits, "decode_cpu_seconds")
    assert [tuple(each[name] for name in names) for each in read(tmp_path, "meshes")] == [
        (1, "b/0", 1, 1, 9.0, 2.0, 0.5, 0.0, 0.0, 1.0, 0.75),
        (1, "host-a/0-3", 2, 2, 1.5, 2.0, 0.0, 1.5, 0.5, 0.0, 1.0),
        (2, "b/0", 1, 1, 9.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.125),
    ]
    assert [getattr(summary, name) for name in waits] == [0.5, 1.5, 0.5, 1.0]


def test_a_batch_that_two_files_share_is_one_batch_and_its_time_is_counted_once(tmp_path: Path) -> None:
    whole = [row(0, 0, batch=number, at=0.5 * number, seconds=0.5) for number in (0, 1, 2) for _ in range(4)]
    write_file(tmp_path / "whole", "a.parquet", whole, metadata())
    write_file(tmp_path / "shared", "a.parquet", whole[:5], metadata(shared_batches={"1": [0, 4]}))
    write_file(tmp_path / "shared", "b.parquet", whole[5:7], metadata(shared_batches={"1": [1, 4]}))
    write_file(tmp_path / "shared", "c.parquet", whole[7:], metadata(shared_batches={"1": [3, 4]}))
    one, parts = write_reports(str(tmp_path / "whole")), write_reports(str(tmp_path / "shared"))
    assert (parts.batches, parts.full_batches) == (3, 3)
    assert replace(parts, wait_start_seconds=one.wait_start_seconds) == one
    assert read(tmp_path / "shared", "throughput") == read(tmp_path / "whole", "throughput")


def test_a_pause_before_a_resume_is_not_in_the_system_fps(tmp_path: Path) -> None:
    first = [row(0, 0, batch=b, at=0.5 * b, seconds=0.5) for b in range(4) for _ in range(4)]
    resumed = [row(0, 0, batch=b, at=3600 + 0.5 * b, seconds=0.25) for b in range(4) for _ in range(4)]
    write_file(tmp_path, "a.parquet", first, metadata(attempt=1))
    write_file(tmp_path, "b.parquet", resumed, metadata(attempt=2))
    summary = write_reports(str(tmp_path))
    assert (summary.attempts, summary.full_batches) == (2, 8)
    rates = (summary.active_seconds, summary.system_fps, summary.device_fps, summary.device_busy, summary.inference_ms)
    assert rates == pytest.approx((2.0 + 1.75, 32 / 3.75, 32 / 3.0, 3.0 / 3.75, 375.0))
    assert {r["attempt"] for r in read(tmp_path, "throughput")} == {1, 2}


def test_meshes_work_side_by_side_in_the_system_fps_and_compile_time_is_the_slowest(tmp_path: Path) -> None:
    for mesh, seconds in (("a/0", 1.0), ("b/0", 4.0)):
        rows = [row(0, 0, batch=b, at=b, seconds=1.0) for b in range(3) for _ in range(4)]
        about = metadata(mesh, compile_seconds=seconds, description=f"cpu of {mesh}", versions={"torch": f"2.{seconds:.0f}"})
        write_file(tmp_path, f"{mesh[0]}.parquet", rows, about)
    summary = write_reports(str(tmp_path))
    assert (summary.meshes, summary.system_fps, summary.device_fps, summary.compile_seconds) == (2, 8.0, 4.0, 4.0)
    assert summary.devices == ["cpu of a/0", "cpu of b/0"]
    assert summary.versions == '{"torch": "2.1, 2.4"}'
    assert {r["mesh"]: r["compile_seconds"] for r in read(tmp_path, "throughput")} == {"a/0": 1.0, "b/0": 4.0}


def test_throughput_adds_up_to_the_summary_and_windows_tile_the_active_time(steady: tuple[Path, Summary]) -> None:
    summary, rows = steady[1], read(steady[0], "throughput")
    found = [sum(row[name] for row in rows) for name in ("images", "batches", "window_seconds", "busy_seconds")]
    busy = summary.active_seconds * (summary.device_busy or 0)
    assert found == pytest.approx([summary.images - summary.errors, summary.batches, summary.active_seconds, busy])
    assert len(rows) > 3


def test_the_report_is_the_same_bytes_whatever_the_order_and_names_of_the_files_and_wherever_they_are(tmp_path: Path) -> None:
    a_run(tmp_path / "one")
    files = sorted((tmp_path / "one" / "predictions").rglob("*.parquet"))
    for number, file in enumerate(reversed(files)):
        copy = tmp_path / "two" / "predictions" / f"{number % 2}" / f"{number}.parquet"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    (tmp_path / "two" / "predictions" / ".chunk-9.parquet.123.part").write_bytes(b"half a fi")  # is being written
    for out in ("one", "two"):
        write_manifest(tmp_path / out)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "one"), "/report-test", recursive=True)
    try:
        assert (
            write_reports(str(tmp_path / "one")) == write_reports(str(tmp_path / "two")) == write_reports("memory://report-test")
        )
        names = sorted(file.name for file in (tmp_path / "one" / "report").iterdir())
        assert set(names) == {f"{name}.parquet" for name in (*TABLES, "summary")}
        for name in ["report.html", *(f"report/{name}" for name in names)]:
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
            assert (tmp_path / "one" / name).read_bytes() == memory.cat(f"/report-test/{name}"), name
    finally:
        memory.rm("/report-test", recursive=True)


def test_the_numbers_do_not_need_the_manifest(tmp_path: Path, steady: tuple[Path, Summary]) -> None:
    out, without = steady
    assert [r["name"] for r in read(out, "per_class")] == [str(i) for i in range(10)]
    shutil.copytree(out / "predictions", tmp_path / "predictions")
    write_manifest(tmp_path)
    summary = write_reports(str(tmp_path))
    assert summary.model == "google/vit-base-patch16-224"
    from_manifest = ("job", "data", "model", "model_digest", "planned", "config", "versions")
    assert replace(summary, **{name: getattr(without, name) for name in from_manifest}) == without


def test_every_column_of_every_table_says_what_it_holds(steady: tuple[Path, Summary]) -> None:
    for name in (*TABLES, "summary"):
        for field in pq.read_schema(steady[0] / "report" / f"{name}.parquet"):
            assert len(field.metadata[b"description"]) > 5, f"{name}.{field.name}"


def test_a_small_report_starts_without_pandas_and_without_ray(tmp_path: Path) -> None:
    write_file(tmp_path, "a.parquet", [row(0, 0), row(0, 1)], metadata())
    code = f"import sys; from jobs.report import main; main(['--out', {str(tmp_path)!r}]); print(*sys.modules)"
    done = run_code(code)
    assert (done.code, done.stderr) == (0, "")
    assert not {"pandas", "ray", "torch", "datasets"} & set(done.stdout.split())


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data.replace(b"attempt", b"attermp")]
)
def test_all_damaged_files_are_named_at_once(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    a_run(tmp_path, files=3)
    bad = sorted((tmp_path / "predictions").rglob("*.parquet"))[1:]
    for file in bad:
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=re.escape(str(tmp_path))) as refused:
        write_reports(str(tmp_path))
    assert all(str(file.relative_to(tmp_path)) in str(refused.value) for file in bad)


@pytest.mark.timeout(60)
def test_what_no_run_left_so_is_named(tmp_path: Path) -> None:
    """Pipes are not waited for; files of two runs, and with other columns than this version's."""
    for name in ("manifest.json", "predictions/more.parquet"):
        a_run(tmp_path / name[0], files=1)
        os.mkfifo(tmp_path / name[0] / name)
        with pytest.raises(UserError, match=f"{name}: is no file but a pipe"):
            write_reports(str(tmp_path / name[0]))
    for run in ("run-1", "run-2"):
        path = write_file(tmp_path / "two", f"{run}.parquet", [row(1, 1)], metadata(run_id=run))
    with pytest.raises(UserError, match="run-1, run-2"):
        write_reports(str(tmp_path / "two"))
    pq.write_table(pq.read_table(path).drop_columns(["host"]), path)
    with pytest.raises(UserError, match="no files of predictions: predictions/run-2"):
        write_reports(str(tmp_path / "two"))


def test_the_terminal_table_is_short_and_aligned(tmp_path: Path) -> None:
    rows = [row(c, c if b else 9, batch=b, at=0.5 * b, seconds=0.25) for b in range(5) for c in range(4)]
    write_file(tmp_path, "a.parquet", [*rows, row(2, None)], metadata())
    write_manifest(tmp_path, images=21)
    assert summary_table(write_reports(str(tmp_path))).splitlines() == [
        "images     21 of 21, 1 with an error",
        "top-1      76.19%  (95% interval 54.91% to 89.37%)",
        "top-5      76.19%  (95% interval 54.91% to 89.37%)",
        "inference  250.00 ms a batch of 4 (p50 248.90, p99 248.90; 5 full batches)",
        "FPS        8.9 the whole system, first batch to last in 2.2 s",
        "           56% of that time the device was busy",
        "compile    1.50 s",
        "device     cpu, float32",
    ]


def test_what_the_run_survived_is_counted_over_its_attempts_and_listed(tmp_path: Path) -> None:
    for mesh in ("a/0", "b/0", "c/0"):
        write_file(tmp_path, f"{mesh[0]}.parquet", [row(c, c) for c in range(4)], metadata(mesh, description=f"cpu of {mesh}"))
    killed = {"attempt": 1, "started_at": "2025-03-01T12:00:00+00:00", "ended_at": None, "state": "running"}
    failed = {"mesh": "loudbox-1/0-3", "opened_at": 1.0, "checks": 3, "passed": 1, "failed": ["board 1 chip 3"]}
    event = {"at": 1740830400.5, "kind": "restart", "where": "loudbox-1/0-3", "what": "the actor was replaced"}
    stopped = FINISHED | {"attempt": 2, "restarts": 1, "retries": 2, "given_up": 0, "images_again": 700}
    stopped |= {"lost_hosts": ["loudbox-2"], "events": [event], "checks": [failed]}
    last = FINISHED | {"attempt": 3, "retries": 1, "restarts": 0, "given_up": 3, "images_again": 64, "lost_hosts": []}
    last["checks"] = [failed | {"opened_at": 2.0, "checks": 4, "passed": 3, "failed": []}]
    write_manifest(tmp_path, attempts=[killed, stopped, last])
    line = (
        "drivers killed: 1, hosts lost: 1, actors restarted: 1, chunks tried again: 3, images classified again: 764, "
        "images given up: 3"
    )
    checks = "7 checks of all chips, loudbox-1/0-3 board 1 chip 3 (1 failed)"
    told = summary_table(write_reports(str(tmp_path))).splitlines()
    assert "one device alone, of 3 (100% busy)" in told[5]
    assert told[7:] == [f"faults     {line}", f"chips      {checks}", "device     cpu of a/0 (and 2 other kinds)"]
    assert checks in page(tmp_path)
    assert line in page(tmp_path)
    assert [(fault["attempt"], fault["kind"], fault["where"]) for fault in read(tmp_path, "faults")] == [
        (1, "driver", "driver"),
        (2, "restart", "loudbox-1/0-3"),
        (2, "host", "loudbox-2"),
    ]
