"""What a run leaves opens in other tools with sensible types, and each documented query answers what the report says."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.schema import PREDICTIONS
from tests.commands import ROOT, Finished

DOCUMENT = (ROOT / "jobs" / "queries.md").read_text()
QUERIES = dict(re.findall(r"^## (.+?)$(?:(?!^## ).)*?^```sql\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL))

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(simulated_run: tuple[Path, Finished]) -> Path:
    return simulated_run[0]


def asked(query: str) -> pa.Table:
    answer = duckdb.sql(query)
    assert answer is not None
    return answer.to_arrow_table()


@pytest.fixture
def ask(run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Rows]:
    """The answer to a question of the document, asked where it says: from within the run's directory."""
    monkeypatch.chdir(run)
    return lambda question: asked(QUERIES[question]).to_pylist()


@pytest.fixture(scope="module")
def rows(run: Path) -> Rows:
    return pq.read_table(run / "predictions").to_pylist()


def table(run: Path, name: str) -> Rows:
    return pq.read_table(run / "report" / f"{name}.parquet").to_pylist()


def test_accuracy_classes_pairs_and_reasons_are_the_reports(ask: Callable[[str], Rows], run: Path) -> None:
    summary, classes = table(run, "summary")[0], table(run, "per_class")
    assert ask("What is the accuracy?") == [{name: summary[name] for name in ("labelled", "top1", "top5")}]
    numbers = [{name: row[name] for name in ("images", "accuracy")} for row in classes]
    expected = [{"label": n, "label_name": str(n)} | row for n, row in enumerate(numbers)]  # the checkpoint's classes are digits
    assert ask("How accurate is each class?") == expected
    worst = sorted(classes, key=lambda row: (row["accuracy"], row["name"]))
    found = [(row["name"], row["confused_with_name"]) for row in ask("Which classes are worst?")]
    assert found == [(row["name"], row["confused_with_name"]) for row in worst]
    names = ("label_name", "predicted_name", "count")
    wrong = [tuple(r[name] for name in names) for r in table(run, "confusion") if r["label"] != r["prediction"]]
    assert [tuple(row.values()) for row in ask("Which pairs are confused most?")] == wrong[:20]
    assert len(wrong) > 20
    got = ask("Why could images not be read?")
    assert sorted(row["images"] for row in got) == sorted(row["images"] for row in table(run, "errors")) == [1, 2]
    assert {row["example"] for row in got} == {"7/empty.jpeg", "7/text.jpeg"}


def test_the_least_sure_right_and_the_surest_wrong_answers_are_found(ask: Callable[[str], Rows], rows: Rows) -> None:
    right = sorted((row["top5_probability"][0], row["image_id"]) for row in rows if row["correct"])
    wrong = sorted((-row["top5_probability"][0], row["image_id"]) for row in rows if row["correct"] is False and not row["error"])
    got = ask("Which right answers were the least sure?")
    assert [(row["probability"], row["image_id"]) for row in got] == right[:20]
    by_id = {row["image_id"]: row for row in rows}
    assert all(row["second"] == by_id[row["image_id"]]["top5"][1] for row in got)
    got = ask("Which wrong answers were the surest?")
    assert [(-row["probability"], row["image_id"]) for row in got] == wrong[:20]
    look = [r for r in rows if r["error"] is None and not (r["correct"] and r["top5_probability"][0] >= 0.5)]
    tasks = ask("How are they corrected in Label Studio?")
    found = [(task["data"]["image"], task["predictions"][0]["result"][0]["value"]) for task in tasks]
    assert found == sorted(((r["image_id"], {"choices": [r["predicted_name"]]}) for r in look), key=lambda task: task[0])


def test_the_slowest_batches_and_the_images_a_minute_add_up_to_the_run(ask: Callable[[str], Rows], run: Path, rows: Rows) -> None:
    summary, batches = table(run, "summary")[0], ask("Which batches took longest?")
    assert len(batches) == summary["batches"]
    assert batches[0]["batch_seconds"] == max(row["batch_seconds"] for row in rows if row["batch_seconds"])
    assert sum(row["images"] for row in batches) == summary["images"] - summary["errors"]
    minutes = ask("How many images a minute did each mesh classify?")
    sums = [pl.DataFrame(each).group_by("mesh").agg(pl.sum("images")).to_dicts() for each in (minutes, table(run, "throughput"))]
    assert sums[0] == sums[1]
    assert all(row["minute"].second == 0 for row in minutes)


def test_one_class_and_one_image_are_looked_up(ask: Callable[[str], Rows], run: Path, rows: Rows) -> None:
    got = ask("What became of the images of one class?")
    assert [row["image_id"] for row in got] == sorted(row["image_id"] for row in rows if row["label"] == 7)
    [found] = ask("Which host and mesh classified an image?")
    [expected] = [row for row in rows if row["image_id"] == "7/digit-1304.jpeg"]
    assert found == {name: expected[name] for name in ("image_id", "host", "mesh", "batch", "started_at")}


def test_two_runs_are_joined_by_their_images(sample_run: tuple[Path, Finished], run: Path, rows: Rows) -> None:
    query = QUERIES["What changed between two runs?"]
    for there, here in (("/mnt/runs/run-1", sample_run[0]), ("/mnt/runs/run-2", run)):
        assert there in query
        query = query.replace(there, str(here))
    was = {row["image_id"]: row["predicted_name"] for row in pq.read_table(sample_run[0] / "predictions").to_pylist()}
    became = {row["image_id"]: row["predicted_name"] for row in rows}
    changed = [(image, was[image], became[image]) for image in sorted(was) if was[image] != became[image]]
    assert [(r["image_id"], r["was"], r["became"]) for r in asked(query).to_pylist()] == changed
    assert changed


def test_the_example_in_python_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(run)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    found: dict[str, Any] = {}
    exec(compile(example, "queries.md", "exec"), found)
    assert found["metrics"]["top1"] == table(run, "summary")[0]["top1"]
    assert {type(value) for value in found["metrics"].values()} == {float}


def test_every_query_is_asked_above() -> None:
    tests = Path(__file__).read_text()
    assert len(QUERIES) == DOCUMENT.count("```sql") == 13
    assert [question for question in QUERIES if tests.count(f'"{question}"') != 1] == []


def test_every_tool_sees_the_types_that_were_written(run: Path, tmp_path: Path) -> None:
    """Instants with their zone, lists, whole numbers with gaps. Of `datasets`, which takes seconds a table, two have them all."""
    tables = {"predictions": str(run / "predictions" / "*.parquet")}
    tables |= {file.stem: str(file) for file in (run / "report").glob("*.parquet") if pq.read_metadata(file).num_rows}
    assert len(tables) > 5
    for name, files in tables.items():
        written = PREDICTIONS if name == "predictions" else pq.read_schema(files)
        kinds = [plain(field.type) for field in written]
        assert [plain(field.type) for field in asked(f"FROM '{files}'").schema] == kinds, name
        assert [plain(field.type) for field in pl.read_parquet(files).to_arrow().schema] == kinds, name
        if name in ("predictions", "summary"):
            loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
            assert [plain(field.type) for field in loaded.features.arrow_schema] == kinds, name


def plain(kind: pa.DataType) -> str:
    """An Arrow type without what a tool may choose for itself: dictionaries, the width of offsets, the name of UTC."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {plain(kind.value_type)}"
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_timestamp(kind):
        return f"timestamp {kind.unit} {'with' if kind.tz else 'without'} zone"
    return str(kind).removeprefix("large_").removesuffix("_view")
