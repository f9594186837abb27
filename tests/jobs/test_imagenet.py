"""The main job as a user runs it: every image ends as a row, the accuracy is the reference's, mistakes cost one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import ViTForImageClassification, ViTImageProcessorPil

from jobs.imagenet import main
from jobs.pipeline.schema import PREDICTIONS
from jobs.running.phases import PHASES
from tests.commands import Finished
from tests.conftest import RayCluster
from tests.jobs.conftest import MODEL, SAMPLE, imagenet, mistake


def rows(out: Path) -> dict[str, dict]:
    table = pq.read_table(out / "predictions")
    found = {row["image_id"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows, "an image has two rows"
    return found


def test_every_top1_and_the_accuracy_equal_the_reference(sample_run: tuple[Path, Finished]) -> None:
    out, _ = sample_run
    processor = ViTImageProcessorPil.from_pretrained(MODEL)
    model = ViTForImageClassification.from_pretrained(MODEL).eval()
    paths = sorted(SAMPLE.rglob("*.jpeg"))
    expected: dict[str, int] = {}
    with torch.inference_mode():
        for start in range(0, len(paths), 64):
            batch = [Image.open(path).convert("RGB") for path in paths[start : start + 64]]
            top = model(**processor(images=batch, return_tensors="pt")).logits.argmax(-1).tolist()
            expected |= {str(p.relative_to(SAMPLE)): c for p, c in zip(paths[start : start + 64], top, strict=True)}
    got = rows(out)
    assert {image: row["prediction"] for image, row in got.items()} == expected
    accuracy = sum(int(Path(image).parts[0]) == c for image, c in expected.items()) / len(expected)
    summary = pq.read_table(out / "report" / "summary.parquet").to_pylist()[0]
    assert summary["top1"] == accuracy
    assert summary["images"] == len(paths)


def test_the_whole_commands_time_is_told_by_phase(sample_run: tuple[Path, Finished]) -> None:
    out, done = sample_run
    summary = pq.read_table(out / "report" / "summary.parquet").to_pylist()[0]
    phases = [summary[f"{phase}_seconds"] for phase in PHASES]
    assert all(seconds >= 0 for seconds in phases)
    assert summary["job_seconds"] == pytest.approx(sum(phases))
    assert summary["active_seconds"] < summary["job_seconds"] <= done.seconds
    assert summary["job_fps"] == pytest.approx(summary["images"] / summary["job_seconds"])
    assert f"job        {summary['job_seconds']:,.1f} s" in done.stdout
    assert "WARNING" not in done.output
    assert "The whole command" in (out / "report.html").read_text()
    meshes = pq.read_table(out / "report" / "meshes.parquet").to_pylist()
    assert [mesh["programs_seconds"] > 0 for mesh in meshes] == [True]
    assert [mesh["kernels_built"] for mesh in meshes] == [None]


def test_rows_follow_the_documented_schema(sample_run: tuple[Path, Finished]) -> None:
    out, _ = sample_run
    files = sorted((out / "predictions").rglob("*.parquet"))
    for file in files:
        schema = pq.read_schema(file)
        assert schema.equals(PREDICTIONS)
        assert schema.field("image_id").metadata[b"description"]
    row = next(iter(rows(out).values()))
    assert len(row["top5"]) == len(row["top5_probability"]) == 5
    assert row["top5"][0] == row["prediction"]
    assert row["top5_probability"] == sorted(row["top5_probability"], reverse=True)


def test_a_second_run_into_the_same_output_is_refused_and_a_resume_has_nothing_to_do(
    ray_cluster: RayCluster, sample_run: tuple[Path, Finished]
) -> None:
    out, _ = sample_run
    again = imagenet(ray_cluster, "--data", str(SAMPLE), "--out", str(out), "--precision", "fp32")
    assert again.code == 2
    assert "--resume" in again.stderr
    assert "--overwrite" in again.stderr
    resumed = imagenet(ray_cluster, "--data", str(SAMPLE), "--out", str(out), "--precision", "fp32", "--resume")
    assert resumed.code == 0
    assert "nothing to do" in resumed.stdout
    other = imagenet(ray_cluster, "--data", str(SAMPLE), "--out", str(out), "--precision", "auto", "--resume")
    assert other.code == 2
    assert "precision was 'fp32', now 'auto'" in other.stderr


def test_unreadable_images_cost_a_row_each_and_too_many_the_exit_code(ray_cluster: RayCluster, tmp_path: Path) -> None:
    data = tmp_path / "data"
    good = sorted((SAMPLE / "7").iterdir())[:5]
    (data / "7").mkdir(parents=True)
    for path in good:
        shutil.copy(path, data / "7")
    (data / "7" / "empty.jpeg").write_bytes(b"")
    (data / "7" / "cut.jpeg").write_bytes(good[0].read_bytes()[:400])
    (data / "7" / "text.jpeg").write_text("not an image")
    command = ["--data", str(data), "--device", "simulated"]
    done = imagenet(ray_cluster, *command, "--out", str(tmp_path / "out"))
    assert done.code == 3, done.output
    got = rows(tmp_path / "out")
    assert len(got) == 8
    assert {Path(image).name for image, row in got.items() if row["error"]} == {"empty.jpeg", "cut.jpeg", "text.jpeg"}
    assert all(row["prediction"] is None and row["correct"] is False for row in got.values() if row["error"])
    assert (tmp_path / "out" / "report" / "summary.parquet").exists()
    allowed = imagenet(ray_cluster, *command, "--out", str(tmp_path / "out2"), "--max-errors", "3")
    assert allowed.code == 0, allowed.output


def test_the_first_of_unlabelled_images_get_predictions_and_no_accuracy(ray_cluster: RayCluster, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for digit in range(10):
        shutil.copy(sorted((SAMPLE / str(digit)).iterdir())[0], data / f"{digit}.jpeg")
    done = imagenet(ray_cluster, "--data", str(data), "--out", str(tmp_path / "out"), "--device", "simulated", "--limit", "7")
    assert done.code == 0, done.output
    got = rows(tmp_path / "out")
    assert sorted(got) == [f"{digit}.jpeg" for digit in range(7)]
    assert all(row["label"] is None and row["correct"] is None and row["prediction"] is not None for row in got.values())
    assert pq.read_table(tmp_path / "out" / "report" / "summary.parquet")["top1"].to_pylist() == [None]


def test_a_second_run_reads_decoded_images_from_the_cache_and_answers_the_same(ray_cluster: RayCluster, tmp_path: Path) -> None:
    def classified(name: str, *arguments: str) -> tuple[Finished, dict[str, list]]:
        command = ["--data", str(SAMPLE), "--out", str(tmp_path / name), "--device", "simulated", "--cache", str(cache)]
        done = imagenet(ray_cluster, *command, *arguments)
        assert done.code == 0, done.output
        table = pq.read_table(tmp_path / name / "predictions").sort_by("image_id")
        return done, table.select(["image_id", "label", "prediction", "top5", "top5_probability", "error"]).to_pydict()

    cache = tmp_path / "cache"
    first, answers = classified("first")
    assert "were read from it" not in first.stdout
    second, again = classified("second")
    assert "500 of 500 images were read from it" in second.stdout
    assert again == answers
    for file in cache.rglob("*.arrow"):
        file.write_bytes(file.read_bytes()[:-100_000])
    damaged, decoded = classified("damaged", "--cache-limit", "1MB")
    assert decoded == answers
    assert "were read from it" not in damaged.stdout
    assert damaged.stderr.count("--cache-limit") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{tmp}/none"], "none: no such file or directory"),
        (["--data", "{empty}"], "no images"),
        (["--data", "{sample}", "--model", "{empty}"], "missing"),
        (["--data", "{sample}", "--model", "no/such-model"], "checkpoint no/such-model"),
        (["--data", "{sample}", "--address", "127.0.0.1:1"], "no Ray cluster answers"),
        (["--data", "{sample}", "--device", "t3000"], "Tenstorrent boards"),
        (["--data", "{sample}", "--meshes", "9"], "room for"),
        (["--data", "{sample}", "--cpus-per-actor", "64"], "64"),
        (["--data", "{sample}", "--cache", "abfs://c@a.dfs.core.windows.net/x?sas=1"], "not a valid URI"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[2:]) or value[1],
)
def test_a_mistake_costs_one_line_and_exit_code_2(
    ray_cluster: RayCluster, tmp_path: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [argument.format(tmp=tmp_path, sample=SAMPLE, empty=tmp_path / "empty") for argument in arguments]
    assert message in mistake(main, ray_cluster, tmp_path / "out", filled, capfd)
