"""ReaL, ImageNet-C and data of fewer classes: each accuracy against a few independent lines."""

import json
import shutil
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import ViTForImageClassification, ViTImageProcessor

from jobs.reporting.imagenet_sets import read_real
from jobs.reporting.terminal_table import summary_table
from jobs.reporting.write import write_reports
from tests.commands import run_module
from tests.conftest import RayCluster
from tests.jobs.conftest import MODEL, SAMPLE, job
from tests.jobs.prediction_files import metadata, row, write_file, write_manifest
from vit_actor.errors import UserError

VALIDATION = "n{:08}/ILSVRC2012_val_{:08}.JPEG"


def test_real_counts_any_of_the_right_classes_and_leaves_out_images_without_one(tmp_path: Path) -> None:
    real = [[n, n + 1] if n % 5 else [] for n in range(40)]
    (tmp_path / "real.json").write_text(json.dumps(real))
    predictions = [n + n % 3 for n in range(40)]
    rows = [row(n, best if n != 7 else None, n, image_id=VALIDATION.format(n, n + 1)) for n, best in enumerate(predictions)]
    write_file(tmp_path, "a.parquet", rows[:17], metadata())
    write_file(tmp_path, "b.parquet", rows[17:], metadata())
    summary = write_reports(str(tmp_path), real=read_real(str(tmp_path / "real.json")))
    right = [best in classes for n, (best, classes) in enumerate(zip(predictions, real, strict=True)) if classes and n != 7]
    assert summary.real_images == sum(map(bool, real)) == len(right) + 1  # the one with an error counts as wrong
    assert summary.real_top1 == sum(right) / summary.real_images
    assert summary.real_top1 > (summary.top1 or 1)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[[]]", '["a"]', "[1, 2]", "[[1000]]", "[[-1]]", "[[1.5]]", "[" * 100_000])
def test_what_are_not_reals_labels_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "real.json").write_text(text)
    with pytest.raises(UserError, match=r"real\.json: not ReaL's labels"):
        read_real(str(tmp_path / "real.json"))


def test_real_on_images_without_validation_names_or_another_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("[[1]]")
    write_file(tmp_path / "run", "a.parquet", [row(1, 1)], metadata())
    for told in ("ILSVRC2012_val_", "ImageNet-1k's classes"):
        done = run_module("jobs.report", "--out", str(tmp_path / "run"), "--real", str(tmp_path / "real.json"))
        assert (done.code, len(done.stderr.splitlines()), told in done.stderr) == (2, 1, True), done.stderr
        write_manifest(tmp_path / "run", class_names=["cat", "dog"])


def test_corruptions_are_averaged_over_severities_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    sizes = {("fog", 1): 10, ("fog", 5): 40, ("jpeg_compression", 3): 20}
    outcomes = {key: rng.random(size) < 0.6 for key, size in sizes.items()}
    rows = [
        row(3, 3 if right else 4, n, image_id=f"noise/{corruption}/{severity}/n01440764/{n}.JPEG")
        for (corruption, severity), answers in outcomes.items()
        for n, right in enumerate(answers)
    ]
    rows += [row(3, 4, image_id=other) for other in ("fog.jpg", "fog/6/a.jpg", "haze/1/a.jpg", "clean/a.jpg")]
    write_file(tmp_path, "a.parquet", rows[::2], metadata())
    write_file(tmp_path, "b.parquet", rows[1::2], metadata())
    summary = write_reports(str(tmp_path))
    means = {key: answers.mean() for key, answers in outcomes.items()}
    expected = fmean([fmean([means["fog", 1], means["fog", 5]]), means["jpeg_compression", 3]])
    assert summary.corrupted_top1 == pytest.approx(expected)
    table = pq.read_table(tmp_path / "report/corruptions.parquet").to_pylist()
    assert {(each["corruption"], each["severity"]): each["images"] for each in table} == sizes


def test_among_the_classes_that_the_data_holds_other_answers_are_right(tmp_path: Path) -> None:
    rows = [row(0, 0, held_prediction=0), row(1, 7, held_prediction=1), row(1, 7, held_prediction=0), row(1, None)]
    write_file(tmp_path, "a.parquet", rows, metadata())
    summary = write_reports(str(tmp_path))
    assert (summary.top1, summary.held_top1) == (0.25, 0.5)
    assert "50.00%  (95% interval 15.00% to 85.00%) top-1 among the classes the data holds" in summary_table(summary)


@pytest.mark.slow
def test_data_of_fewer_classes_has_both_accuracies(ray_cluster: RayCluster, tmp_path: Path) -> None:
    held, data, out = [1, 4, 8, 9], tmp_path / "data", tmp_path / "out"
    for label in held:
        shutil.copytree(SAMPLE / str(label), data / str(label))
    rng, paths = np.random.default_rng(1), sorted(data.rglob("*.jpeg"))
    for path in paths:  # noise, for answers outside the held classes
        pixels = np.asarray(Image.open(path)).astype(int)
        Image.fromarray(np.clip(pixels + rng.normal(0, 130, pixels.shape), 0, 255).astype(np.uint8)).save(path, quality=95)
    job("imagenet", ray_cluster, "--data", str(data), "--out", str(out), "--precision", "fp32").succeeded()
    labels = np.array([int(path.parent.name) for path in paths])
    model, processor = ViTForImageClassification.from_pretrained(MODEL), ViTImageProcessor.from_pretrained(MODEL)
    with torch.no_grad():
        logits = model(**processor([Image.open(path) for path in paths], return_tensors="pt")).logits.numpy()
    (summary,) = pq.read_table(out / "report/summary.parquet").to_pylist()
    assert summary["held_top1"] == (np.array(held)[logits[:, held].argmax(1)] == labels).mean()
    assert summary["top1"] == (logits.argmax(1) == labels).mean() < summary["held_top1"]
