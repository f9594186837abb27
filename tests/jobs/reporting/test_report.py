"""A report says what the predictions say, to the same bytes each time, and the page shows it safely."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from jobs.report import main
from jobs.reporting.schema import Summary
from jobs.reporting.terminal_table import summary_table
from jobs.reporting.write import write_reports
from tests.commands import run_code
from tests.jobs.prediction_files import START, metadata, row, write_file, write_manifest
from tests.jobs.reporting.conftest import a_run, page, read
from vit_actor.errors import UserError

TABLES = {
    *("batch_times", "calibration", "confusion", "corruptions", "errors"),
    *("faults", "meshes", "per_class", "summary", "throughput"),
}


def test_accuracy_is_over_labelled_images_and_an_error_is_wrong(tmp_path: Path) -> None:
    rows = [row(0, 0), row(0, 0), row(0, 1), row(1, 1), row(1, None), row(None, 0), row(None, None, error="empty file")]
    write_file(tmp_path, "a.parquet", rows, metadata())
    write_manifest(tmp_path, images=9)
    summary = write_reports(str(tmp_path))
    assert (summary.images, summary.planned, summary.errors, summary.labelled) == (7, 9, 2, 5)
    assert (summary.correct, summary.top1) == (3, 0.6)
    assert summary.top1_low == pytest.approx(0.2307, abs=1e-4)
    assert summary.top1_high == pytest.approx(0.8824, abs=1e-4)
    assert read(tmp_path, "summary")[0]["top1"] == 0.6
    zero, one = read(tmp_path, "per_class")[:2]
    assert (zero["name"], zero["images"], zero["correct"], zero["predicted"]) == ("class 0", 3, 2, 3)
    assert (zero["confused_with"], zero["confused_with_name"], zero["confused_images"]) == (1, "class 1", 1)
    assert (one["images"], one["errors"], one["accuracy"], one["confused_with"]) == (2, 1, 0.5, None)
    assert read(tmp_path, "per_class")[9]["accuracy"] is None
    assert [(r["label"], r["prediction"], r["count"]) for r in read(tmp_path, "confusion")] == [(0, 0, 2), (0, 1, 1), (1, 1, 1)]
    assert read(tmp_path, "errors") == [
        {"reason": "empty file", "images": 1, "example": "None/0-0.0.jpg"},
        {"reason": "truncated file", "images": 1, "example": "1/0-0.0.jpg"},
    ]
    assert "7 of 9 images so far" in page(tmp_path)


def test_predictions_without_labels_have_no_accuracy(tmp_path: Path) -> None:
    write_file(tmp_path, "a.parquet", [row(None, 3), row(None, 3), row(None, 1)], metadata())
    summary = write_reports(str(tmp_path))
    assert (summary.top1, summary.top5, summary.labelled) == (None, None, 0)
    assert read(tmp_path, "per_class")[3]["predicted"] == 2
    assert "no labels" in page(tmp_path)
    assert "top-1" not in summary_table(summary)


def test_calibration_is_the_gap_between_confidence_and_accuracy(tmp_path: Path) -> None:
    def sure(confidence: float, right: bool) -> dict:
        return row(0, 0 if right else 1, top5_probability=[confidence, 0.0, 0.0, 0.0, 0.0])

    rows = [*[sure(0.75, i < 3) for i in range(4)], *[sure(1.0, i < 2) for i in range(4)], row(0, None), row(None, 3)]
    write_file(tmp_path, "a.parquet", rows, metadata())
    summary = write_reports(str(tmp_path))
    assert summary.ece == 0.25  # half of the images are as right as they are sure, the others are wrong half of the time
    bins = [tuple(each.values()) for each in read(tmp_path, "calibration")]
    found = [(number, *each[2:6]) for number, each in enumerate(bins) if each[2]]
    assert found == [(11, 4, 3, 0.75, 0.75), (14, 4, 2, 1.0, 0.5)]
    assert len(bins) == 15


def test_each_meshs_time_is_compile_busy_and_waiting_and_decoding_beside_it(tmp_path: Path) -> None:
    for number, at in enumerate((0.0, 3.0)):
        write_file(tmp_path, f"{number}.parquet", [row(0, 0, batch=number, at=at, seconds=1.0)], metadata(read_cpu_seconds=0.5))
    late = metadata("b/0", compile_seconds=9.0, read_cpu_seconds=0.75, opened_at=START.timestamp() + 0.5)
    write_file(tmp_path, "b.parquet", [row(0, 0, at=1, seconds=2.0)], late)
    write_file(tmp_path, "c.parquet", [row(0, 0, at=60)], metadata("b/0", attempt=2, read_cpu_seconds=0.125))
    write_manifest(
        tmp_path, attempts=[{"attempt": 1, "ended_at": "then", "state": "stopped", "down_seconds": {"host-a/0-3": 0.5}}]
    )
    summary = write_reports(str(tmp_path))
    waits = tuple(f"wait_{reason}_seconds" for reason in ("start", "stream", "faults", "tail"))
    names = ("attempt", "mesh", "images", "batches", "compile_seconds", "busy_seconds", *waits, "decode_cpu_seconds")
    assert [tuple(each[name] for name in names) for each in read(tmp_path, "meshes")] == [
        (1, "b/0", 1, 1, 9.0, 2.0, 0.5, 0.0, 0.0, 1.0, 0.75),
        (1, "host-a/0-3", 2, 2, 1.5, 2.0, 0.0, 1.5, 0.5, 0.0, 1.0),
        (2, "b/0", 1, 1, 9.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.125),
    ]
    assert [getattr(summary, name) for name in waits] == [0.5, 1.5, 0.5, 1.0]


def test_a_batch_that_two_files_share_is_one_batch_and_its_time_is_counted_once(tmp_path: Path) -> None:
    whole = [row(0, 0, batch=number, at=0.5 * number, seconds=0.5) for number in (0, 1, 2) for _ in range(4)]
    (tmp_path / "shared").mkdir()
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
    assert (summary.meshes, summary.system_fps, summary.device_fps) == (2, 8.0, 4.0)
    assert summary.compile_seconds == 4.0
    assert summary.devices == ["cpu of a/0", "cpu of b/0"]
    assert json.loads(summary.versions) == {"torch": "2.1, 2.4"}
    assert {r["mesh"]: r["compile_seconds"] for r in read(tmp_path, "throughput")} == {"a/0": 1.0, "b/0": 4.0}


def test_throughput_adds_up_to_the_summary_and_windows_tile_the_active_time(steady: tuple[Path, Summary]) -> None:
    summary, rows = steady[1], read(steady[0], "throughput")
    assert sum(r["images"] for r in rows) == summary.images - summary.errors
    assert sum(r["batches"] for r in rows) == summary.batches
    assert sum(r["window_seconds"] for r in rows) == pytest.approx(summary.active_seconds)
    assert summary.device_busy is not None
    assert sum(r["busy_seconds"] for r in rows) == pytest.approx(summary.active_seconds * summary.device_busy)
    assert len(rows) > 3


def test_the_report_is_the_same_bytes_whatever_the_order_and_names_of_the_files(tmp_path: Path) -> None:
    a_run(tmp_path / "one")
    files = sorted((tmp_path / "one" / "predictions").rglob("*.parquet"))
    for number, file in enumerate(reversed(files)):
        copy = tmp_path / "two" / "predictions" / f"{number % 2}" / f"{number}.parquet"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    for out in ("one", "two"):
        write_manifest(tmp_path / out)
        write_reports(str(tmp_path / out))
    names = sorted(file.name for file in (tmp_path / "one" / "report").iterdir())
    assert set(names) == {f"{name}.parquet" for name in TABLES}
    for name in ["report.html", *(f"report/{name}" for name in names)]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_the_numbers_do_not_need_the_manifest(tmp_path: Path, steady: tuple[Path, Summary]) -> None:
    out, without = steady
    assert [r["name"] for r in read(out, "per_class")] == [str(i) for i in range(10)]
    shutil.copytree(out / "predictions", tmp_path / "predictions")
    write_manifest(tmp_path)
    summary = write_reports(str(tmp_path))
    assert summary.model == "google/vit-base-patch16-224"
    from_manifest = {"job", "data", "model", "model_digest", "planned", "config", "versions"}
    assert {k: v for k, v in vars(summary).items() if k not in from_manifest} == {
        k: v for k, v in vars(without).items() if k not in from_manifest
    }


def test_a_report_on_a_remote_filesystem_equals_the_local_one(steady: tuple[Path, Summary]) -> None:
    out, local = steady
    memory = fsspec.filesystem("memory")
    memory.put(str(out / "predictions"), "/report-test/predictions", recursive=True)
    try:
        assert write_reports("memory://report-test") == local
        assert memory.cat("/report-test/report.html") == (out / "report.html").read_bytes()
    finally:
        memory.rm("/report-test", recursive=True)


def test_every_column_of_every_table_says_what_it_holds(steady: tuple[Path, Summary]) -> None:
    for name in TABLES:
        for field in pq.read_schema(steady[0] / "report" / f"{name}.parquet"):
            assert len(field.metadata[b"description"]) > 5, f"{name}.{field.name}"


def test_files_still_being_written_are_not_read(tmp_path: Path) -> None:
    a_run(tmp_path, files=2)
    (tmp_path / "predictions" / ".chunk-9.parquet.123.part").write_bytes(b"half a fi")
    assert write_reports(str(tmp_path)).images == 192


def test_a_run_of_nothing_but_errors_still_reports(tmp_path: Path) -> None:
    write_file(tmp_path, "a.parquet", [row(1, None), row(2, None)], metadata())
    summary = write_reports(str(tmp_path))
    assert (summary.errors, summary.top1, summary.system_fps, summary.inference_ms) == (2, 0.0, None, None)
    assert "2 with an error" in summary_table(summary)
    assert "2 images could not be classified" in page(tmp_path)


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


@pytest.mark.parametrize("name", ["manifest.json", "predictions/more.parquet"])
@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(tmp_path: Path, name: str) -> None:
    a_run(tmp_path, files=1)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: is no file but a pipe"):
        write_reports(str(tmp_path))


def test_predictions_of_two_runs_are_refused(tmp_path: Path) -> None:
    write_file(tmp_path, "a.parquet", [row(1, 1)], metadata(run_id="run-1"))
    write_file(tmp_path, "b.parquet", [row(1, 1)], metadata(run_id="run-2"))
    with pytest.raises(UserError, match="run-1, run-2"):
        write_reports(str(tmp_path))


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


def test_the_terminal_table_is_ten_lines_at_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mesh in ("a/0", "b/0", "c/0"):
        write_file(tmp_path, f"{mesh[0]}.parquet", [row(c, c) for c in range(4)], metadata(mesh, description=f"cpu of {mesh}"))
    write_manifest(tmp_path, attempts=[{"attempt": 1, "started_at": "", "ended_at": "", "state": "finished", "retries": 3}])
    assert main(["--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[7:9] == ["faults     chunks tried again: 3", "device     cpu of a/0 (and 2 other kinds)"]
    assert len(lines) == 10


def test_what_the_run_survived_is_counted_over_its_attempts_and_listed(tmp_path: Path) -> None:
    write_file(tmp_path, "a.parquet", [row(c, c) for c in range(4)], metadata())
    about = {"started_at": "2025-03-01T12:00:00+00:00", "ended_at": None, "state": "running"}
    ended = about | {"ended_at": "2025-03-01T12:01:00+00:00", "state": "stopped", "restarts": 1, "retries": 2, "given_up": 0}
    ended |= {"images_again": 700, "lost_hosts": ["loudbox-2"]}
    ended["events"] = [{"at": 1740830400.5, "kind": "restart", "where": "loudbox-1/0-3", "what": "the actor was replaced"}]
    last = about | {"state": "classified", "retries": 1, "restarts": 0, "given_up": 3, "images_again": 64, "lost_hosts": []}
    failed = {"mesh": "loudbox-1/0-3", "opened_at": 1.0, "checks": 3, "passed": 1, "failed": ["board 1 chip 3"]}
    ended["checks"], last["checks"] = [failed], [failed | {"opened_at": 2.0, "checks": 4, "passed": 3, "failed": []}]
    write_manifest(tmp_path, attempts=[about | {"attempt": 1}, ended | {"attempt": 2}, last | {"attempt": 3}])
    summary = write_reports(str(tmp_path))
    line = (
        "drivers killed: 1, hosts lost: 1, actors restarted: 1, chunks tried again: 3, images classified again: 764, "
        "images given up: 3"
    )
    checks = "7 checks of all chips, loudbox-1/0-3 board 1 chip 3 (1 failed)"
    assert {f"faults     {line}", f"chips      {checks}"} <= set(summary_table(summary).splitlines())
    assert checks in page(tmp_path)
    assert line in page(tmp_path)
    assert [(fault["attempt"], fault["kind"], fault["where"]) for fault in read(tmp_path, "faults")] == [
        (1, "driver", "driver"),
        (2, "restart", "loudbox-1/0-3"),
        (2, "host", "loudbox-2"),
    ]
