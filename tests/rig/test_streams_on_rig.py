"""One job of 1, 2 and 4 streams on four hosts: the same answers, also when a stream's process dies."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.running import SHARD, command, kill_one, prediction_files, wait_until, write_shards
from tests.rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARDS = 400


def answers(out: Path) -> dict[str, int]:
    got = pq.read_table(out / "predictions").to_pylist()
    assert len(got) == SHARDS * SHARD
    return {row["image_id"]: row["prediction"] for row in got}


def job_of(streams: int, data: Path, out: Path) -> list[str]:
    return ["python", *command(data, out, "compute=1us,upload=0us,readback=0us,compile=0s", f"--streams={streams}")]


def test_any_number_of_streams_gives_the_same_answers_and_one_that_dies_loses_none(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", SHARDS)
    found: dict[int | str, dict[str, int]] = {}
    with Rig(loudboxes=4, cpus=2, object_store_mb=300) as rig:
        for streams in (1, 2, 4):
            out = tmp_path / f"streams-{streams}"
            rig.run(job_of(streams, data, out), timeout=280)
            (row,) = pq.read_table(out / "report/summary.parquet").to_pylist()
            print(f"{streams} streams: {SHARDS / row['active_seconds']:.1f} chunks/s from first batch to last")
            found[streams] = answers(out)
        out = tmp_path / "killed"
        job = rig.start(job_of(4, data, out))
        wait_until(lambda: len(prediction_files(out)) >= SHARDS // 8, job)
        kill_one(str(rig.directory / "home"), "_Process")
        assert job.wait(280) == 0
        found["killed"] = answers(out)
    assert found[1] == found[2] == found[4] == found["killed"]
