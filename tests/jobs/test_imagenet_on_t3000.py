"""The main job reaches a T3000 by itself: Ray's boards, the actor, ttnn's graph and queues, on mock chips with true numbers."""

from pathlib import Path

import pyarrow.parquet as pq

from tests.commands import run_module
from tests.conftest import ray_head
from tests.jobs.conftest import MODEL, SAMPLE, answers_of_transformers

IMAGES = 130  # two full batches and one of two images


def test_auto_takes_the_boards_and_every_answer_is_the_reference(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    line = ["--data", str(SAMPLE), "--model", str(MODEL), "--limit", str(IMAGES), "--out", str(tmp_path / "out")]
    with ray_head(tmp_path / "home", "--num-cpus=2", '--resources={"TTNPU": 4}') as cluster:
        line += ["--address", cluster.address]
        done = run_module("tests.mock_t3000.job", *line, environment=cluster.environment)
    assert done.code == 0, done.output
    assert "T3000" in done.stdout
    rows = pq.read_table(tmp_path / "out" / "predictions").to_pylist()
    assert {row["mesh"].partition("/")[2] for row in rows} == {"0-3"}
    expected = answers_of_transformers(sorted(SAMPLE.rglob("*.jpeg"))[:IMAGES])
    assert {row["image_id"]: row["prediction"] for row in rows} == expected
