"""The main job as a user runs it: every image ends as a row, the accuracy is the reference's, mistakes cost one line."""

import shutil
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.imagenet import main
from jobs.pipeline.schema import PREDICTIONS
from jobs.running.phases import PHASES
from tests.commands import Finished
from tests.conftest import RayCluster
from tests.jobs.conftest import SAMPLE, answers_of_transformers, job, mistake

imagenet = partial(job, "imagenet")


def rows(out: Path) -> dict[str, dict]:
    table = pq.read_table(out / "predictions")
    found = {row["image_id"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows, "an image has two rows"
    return found


def test_every_top1_and_the_accuracy_equal_the_reference(sample_run: tuple[Path, Finished]) -> None:
    out, _ = sample_run
    expected = answers_of_transformers(sorted(SAMPLE.rglob("*.jpeg")))
    assert {image: row["prediction"] for image, row in rows(out).items()} == expected
    summary = pq.read_table(out / "report" / "summary.parquet").to_pylist()[0]
    assert summary["top1"] == sum(int(Path(image).parts[0]) == c for image, c in expected.items()) / len(expected)
    assert summary["images"] == len(expected)
    for file in (out / "predictions").rglob("*.parquet"):
        assert pq.read_schema(file).equals(PREDICTIONS)
        assert pq.read_schema(file).field("image_id").metadata[b"description"]
    for row in rows(out).values():
        assert len(row["top5"]) == len(row["top5_probability"]) == 5
        assert row["top5"][0] == row["prediction"]
        assert row["top5_probability"] == sorted(row["top5_probability"], reverse=True)


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


def test_another_run_into_the_output_is_refused_or_has_nothing_to_do(
    ray_cluster: RayCluster, sample_run: tuple[Path, Finished]
) -> None:
    line = ["--data", str(SAMPLE), "--out", str(sample_run[0])]
    again = imagenet(ray_cluster, *line, "--precision", "fp32")
    assert (again.code, "--resume" in again.stderr, "--overwrite" in again.stderr) == (2, True, True)
    resumed = imagenet(ray_cluster, *line, "--precision", "fp32", "--resume")
    assert (resumed.code, "nothing to do" in resumed.stdout) == (0, True)
    other = imagenet(ray_cluster, *line, "--precision", "auto", "--resume")
    assert (other.code, "precision was 'fp32', now 'auto'" in other.stderr) == (2, True)


def test_unreadable_images_cost_a_row_each_and_too_many_the_exit_code(ray_cluster: RayCluster, tmp_path: Path) -> None:
    data, good = tmp_path / "data", sorted((SAMPLE / "7").iterdir())[:5]
    (data / "7").mkdir(parents=True)
    for path in good:
        shutil.copy(path, data / "7")
    bad = {"empty.jpeg": b"", "cut.jpeg": good[0].read_bytes()[:400], "text.jpeg": b"not an image"}
    for name, content in bad.items():
        (data / "7" / name).write_bytes(content)
    command = ["--data", str(data), "--device", "simulated"]
    done = imagenet(ray_cluster, *command, "--out", str(tmp_path / "out"))
    assert done.code == 3, done.output
    got = rows(tmp_path / "out")
    assert len(got) == 8
    failed = {Path(image).name: (row["prediction"], row["correct"]) for image, row in got.items() if row["error"]}
    assert failed == dict.fromkeys(bad, (None, False))
    assert (tmp_path / "out" / "report" / "summary.parquet").exists()
    imagenet(ray_cluster, *command, "--out", str(tmp_path / "out2"), "--max-errors", "3").succeeded()


def test_the_first_of_unlabelled_images_get_predictions_and_no_accuracy(ray_cluster: RayCluster, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for digit in range(10):
        shutil.copy(sorted((SAMPLE / str(digit)).iterdir())[0], data / f"{digit}.jpeg")
    imagenet(ray_cluster, "--data", str(data), "--out", str(out), "--device", "simulated", "--limit", "7").succeeded()
    got = rows(out)
    assert sorted(got) == [f"{digit}.jpeg" for digit in range(7)]
    assert all(row["label"] is None and row["correct"] is None and row["prediction"] is not None for row in got.values())
    assert pq.read_table(out / "report" / "summary.parquet")["top1"].to_pylist() == [None]


def test_a_second_run_reads_decoded_images_from_the_cache_and_answers_the_same(ray_cluster: RayCluster, tmp_path: Path) -> None:
    def classified(name: str, *arguments: str) -> tuple[Finished, dict[str, list]]:
        command = ["--data", str(SAMPLE), "--out", str(tmp_path / name), "--device", "simulated", "--cache", str(cache)]
        done = imagenet(ray_cluster, *command, *arguments).succeeded()
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
