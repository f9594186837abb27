"""Two runs compared: every image is counted once, whatever the files, and the page says what the tables say."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.report import main
from jobs.reporting.comparison.compare import compare, comparison_table
from jobs.reporting.comparison.tables import FROM_PAIRS, SETTINGS, Comparison
from tests.jobs.conftest import ended
from tests.jobs.prediction_files import metadata, row, write_file, write_manifest

Answers = list[tuple[str, int | None, int | None]]  # (image id, label, prediction)


def a_run(out: Path, answers: Answers, files: int = 1, **about: Any) -> Path:
    """A run of these answers, named for its folder, dealt out over some files."""
    rows = [row(label, prediction, image_id=image, run_id=out.name) for image, label, prediction in answers]
    for number in range(files):
        write_file(out, f"{number}.parquet", rows[number::files], metadata(run_id=out.name, **about))
    return out


def compared(a: Path, b: Path, out: Path) -> Comparison:
    return compare(str(a), str(b), str(out))[0]


def read(out: Path, name: str) -> list[dict]:
    return pq.read_table(out / f"{name}.parquet").to_pylist()


BEFORE: Answers = [("a", 0, 0), ("b", 0, 0), ("c", 0, 1), ("d", 1, 1), ("e", 1, None), ("f", 2, 0), ("g", None, 5), ("h", 3, 3)]
AFTER: Answers = [("a", 0, 0), ("b", 0, 2), ("c", 0, 0), ("d", 1, None), ("e", 1, 1), ("f", 2, 1), ("g", None, 6), ("i", 3, 3)]


def test_every_kind_of_flip_is_counted_listed_and_told_by_class(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a", BEFORE), a_run(tmp_path / "b", AFTER)
    write_manifest(a, run_id="a")
    c = compared(a, b, tmp_path / "out")
    assert (c.images, c.flips, c.only_a, c.only_b, c.errors_a, c.errors_b) == (7, 6, 1, 1, 1, 1)
    assert "unread      1 image in A, 1 in B" in comparison_table(c)
    assert (c.labelled, c.correct_a, c.correct_b, c.lost, c.gained, c.still_wrong) == (6, 3, 3, 2, 2, 1)
    assert (c.difference, c.p_value) == (0.0, 1.0)
    assert c.agreement == pytest.approx(1 / 7)
    flips = {flip["image_id"]: flip for flip in read(tmp_path / "out", "flips")}
    lost, gained = "right to wrong", "wrong to right"
    kinds = {"b": lost, "c": gained, "d": lost, "e": gained, "f": "wrong to wrong", "g": "no label"}
    assert {image: flip["kind"] for image, flip in flips.items()} == kinds
    assert flips["d"] == {
        "image_id": "d", "label": 1, "label_name": "class 1", "kind": "right to wrong",
        "prediction_a": 1, "name_a": "class 1", "probability_a": pytest.approx(0.9), "error_a": None,
        "prediction_b": None, "name_b": None, "probability_b": None, "error_b": "truncated file",
    }  # fmt: skip
    per_class = [tuple(r.values())[2:] for r in read(tmp_path / "out", "flips_per_class")]
    assert per_class == [(3, 2, 2, 1, 1, 0), (2, 1, 1, 1, 1, 0), (1, 0, 0, 0, 0, 1)]
    assert [(r["image_id"], r["run"]) for r in read(tmp_path / "out", "only_in_one")] == [("h", "A"), ("i", "B")]
    assert "1 image only in A, 1 only in B" in c.verdict


def test_files_of_other_names_cuts_and_orders_give_the_same_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before: Answers = [(f"{i}.jpg", i % 7, int(rng.integers(7))) for i in range(500)]
    after: Answers = [(image, label, int(rng.integers(7))) for image, label, _ in before[20:]]
    a = a_run(tmp_path / "a", before, files=4)
    whole = a_run(tmp_path / "b", after, files=4)
    shuffled = a_run(tmp_path / "again" / "b", [after[place] for place in rng.permutation(len(after))], files=9)
    (shuffled / "predictions" / "0.parquet").rename(shuffled / "predictions" / "elsewhere.parquet")
    first, second = compared(a, whole, tmp_path / "1"), compared(a, shuffled, tmp_path / "2")
    times = ("system_fps_b", "system_fps_ratio", "device_fps_b", "device_fps_ratio", "inference_ms_b", "inference_ratio")
    assert replace(second, **{name: getattr(first, name) for name in times}) == first
    assert (first.images, first.only_a, first.only_b) == (480, 20, 0)
    for name in ("flips", "only_in_one"):
        assert {*map(str, read(tmp_path / "1", name))} == {*map(str, read(tmp_path / "2", name))}
    assert first.flips == sum(answer != other for (_, _, answer), (_, _, other) in zip(before[20:], after, strict=True))


@pytest.mark.parametrize("files", [1, 2])
def test_where_ids_repeat_the_first_of_an_id_is_paired_with_the_first(tmp_path: Path, files: int) -> None:
    a = a_run(tmp_path / "a", [("x", 0, 0), ("x", 0, 1), ("y", 1, 1), ("x", 0, 2)])
    b = a_run(tmp_path / "b", [("x", 0, 0), ("x", 0, 1), ("y", 1, 1), ("x", 0, 0), ("x", 0, 3)], files)
    c = compared(a, b, tmp_path / "out")
    assert (c.images, c.only_a, c.only_b) == (4, 0, 1)
    assert c.flips == files  # two files hold every second image each, and so another order
    assert len(read(tmp_path / "out", "flips")) == c.flips


def test_flips_are_in_run_as_order_and_of_the_long_tables_the_page_shows_the_first(tmp_path: Path) -> None:
    answers: Answers = [(f"{i:04}", 0, 0) for i in range(700)]
    a = a_run(tmp_path / "a", answers[::-1])
    b = a_run(tmp_path / "b", [(image, 0, 1) for image, _, _ in answers[:400]], files=3)
    c = compared(a, b, tmp_path / "out")
    assert (c.flips, c.only_a) == (400, 300)
    assert [flip["image_id"] for flip in read(tmp_path / "out", "flips")] == [f"{i:04}" for i in range(399, -1, -1)]
    html = (tmp_path / "out" / "comparison.html").read_text()
    assert "400; the first 200 of flips.parquet." in html
    assert "300 only in A, 0 only in B; not compared. only_in_one.parquet has all of them, here are the first 200." in html
    assert html.count("<td>right to wrong</td>") == 200


def test_the_same_run_twice_is_identical(tmp_path: Path) -> None:
    a = a_run(tmp_path / "a", BEFORE)
    assert compared(a, a, tmp_path / "out").verdict == "this is the same run twice: 8 of 8 images agree"
    assert read(tmp_path / "out", "flips") == read(tmp_path / "out", "settings") == []
    other = a_run(tmp_path / "b", BEFORE, files=2)
    assert compared(a, other, tmp_path / "out").verdict == "the answers are identical: 8 of 8 images agree"


def test_labels_of_one_run_serve_both_and_without_agreeing_ones_there_is_no_accuracy(tmp_path: Path) -> None:
    a = a_run(tmp_path / "a", [("a", 0, 0), ("b", 1, 1), ("c", 2, 2)])
    b = a_run(tmp_path / "b", [("a", None, 1), ("b", 1, 1), ("c", 3, 2)])
    c = compared(a, b, tmp_path / "out")
    assert (c.labelled, c.relabelled, c.correct_a, c.correct_b, c.lost) == (2, 1, 2, 1, 1)
    assert "relabelled  1 image," in comparison_table(c)
    bare = [a_run(tmp_path / name / "bare", [(image, None, answer) for image, _, answer in answers if image not in "hi"])
            for name, answers in (("1", BEFORE), ("2", AFTER))]  # fmt: skip
    c = compared(bare[0], bare[1], tmp_path / "out")
    assert (c.flips, c.labelled, c.top1_a, c.difference, c.p_value) == (6, 0, None, None, None)
    assert c.verdict == "answers differ on 6 of 7 images; no labels, so no accuracy to compare"
    assert "have no labels" in (tmp_path / "out" / "comparison.html").read_text()


def test_what_differs_in_configuration_versions_and_devices_is_listed(tmp_path: Path) -> None:
    answers: Answers = [("a", 0, 0)]
    a = a_run(tmp_path / "a", answers, description="cpu, float32")
    b = a_run(tmp_path / "b", answers, description="simulated T3000", versions={"torch": "3.0.0"})
    write_manifest(a, run_id="a", settings={"precision": "fp32", "limit": None})
    write_manifest(b, run_id="b", settings={"precision": "auto", "limit": None})
    c = compared(a, b, tmp_path / "out")
    assert {r["setting"]: (r["a"], r["b"]) for r in read(tmp_path / "out", "settings")} == {
        "devices": ('["cpu, float32"]', '["simulated T3000"]'),
        "precision": ("fp32", "auto"),
        "torch version": ("2.13.0", "3.0.0"),
    }
    assert (c.simulated_a, c.simulated_b) == (False, True)
    assert "simulated   run B:" in comparison_table(c)
    assert "<b>SIMULATED</b> — no accelerator ran in run B." in (tmp_path / "out" / "comparison.html").read_text()


def test_times_are_compared_as_ratios(tmp_path: Path) -> None:
    for name, seconds in (("run-1", 0.4), ("run-2", 0.1)):
        rows = [row(0, 0, batch=n // 4, at=n // 4 * seconds, seconds=seconds, image_id=str(n)) for n in range(16)]
        write_file(tmp_path / name, "0.parquet", rows, metadata(run_id=name))
    c = compared(tmp_path / "run-1", tmp_path / "run-2", tmp_path / "out")
    assert (c.system_fps_ratio, c.device_fps_ratio, c.inference_ratio) == pytest.approx((4, 4, 0.25))
    assert "inference   400.00 -> 100.00 ms a batch, 0.250 times" in comparison_table(c)


def test_every_column_says_what_it_holds_and_a_text_cannot_become_markup(tmp_path: Path) -> None:
    nasty = '<script>alert("1")</script>'
    a = a_run(tmp_path / "a", [(nasty, 0, 0), (f"{nasty}2", 0, 0)], description=nasty)
    b = a_run(tmp_path / "b", [(nasty, 0, 1)])
    write_manifest(a, run_id="a", class_names=[nasty, f"{nasty}2"], model=nasty)
    compared(a, b, tmp_path / "out")
    schemas = {name: query.schema for name, query in FROM_PAIRS.items()} | {"settings": SETTINGS}
    for name, schema in schemas.items():
        assert pq.read_schema(tmp_path / "out" / f"{name}.parquet").equals(schema)
    for name in ("comparison", *schemas):
        for each in pq.read_schema(tmp_path / "out" / f"{name}.parquet"):
            assert len(each.metadata[b"description"]) > 5, f"{name}.{each.name}"
    html = (tmp_path / "out" / "comparison.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(&#34;1&#34;)" in html
    assert not re.search(r"<(link|iframe)|https?://|url\(", html)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("nowhere", "no predictions there"),
        ("strangers", "have no image in common"),
        ("classes", "answer with other classes"),
        ("damaged", "damaged, or no files of predictions"),
    ],
)
def test_what_cannot_be_compared_is_told(tmp_path: Path, other: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    a = a_run(tmp_path / "a", BEFORE)
    write_manifest(a, run_id="a")
    a_run(tmp_path / "strangers", [("z", 0, 0)])
    a_run(tmp_path / "classes", BEFORE)
    write_manifest(tmp_path / "classes", run_id="classes", class_names=["cat", "dog"])
    damaged = a_run(tmp_path / "damaged", BEFORE, files=2) / "predictions" / "0.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    code, told = ended(lambda: main(["--compare", str(a), str(tmp_path / other)]), capsys)
    assert (code, told.count("\n"), message in told) == (2, 1, True), told
    assert not (tmp_path / other / "compared").exists()
