"""A run whose driver is killed and whose head is restarted, at random moments, finishes without a hand."""

import random
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.running import SHARD, command, prediction_files, wait_until, write_shards
from tests.rig import Rig

SHARDS = 40


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_driver_and_head_are_lost_finishes_without_a_hand(tmp_path: Path) -> None:
    data, out = write_shards(tmp_path / "data", SHARDS), tmp_path / "out"
    with Rig(loudboxes=1, object_store_mb=400) as rig:
        words = command(data, out, "compute=500ms")[1:]
        submit = ["python", "-m", "cluster.submit", "--retries", "8", *words]
        job = rig.start(submit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_until(lambda: len(prediction_files(out)) > 0, job)
        time.sleep(random.uniform(0, 3))
        rig.run(["bash", "-c", "pkill -9 -f '[p]ython -m jobs.imagenet'"], check=False)  # in the head's own PID namespace
        before = len(prediction_files(out))
        wait_until(lambda: len(prediction_files(out)) > before, job)
        time.sleep(random.uniform(0, 3))
        rig.kill_host("loudbox-1")
        rig.restart_head()
        rig.add_host("loudbox-2")
        said, _ = job.communicate(timeout=600)

    assert job.returncode == 0, said
    assert "exit code 137; retry 1 of 8 in 10 s" in said
    ids = pq.read_table(out / "predictions")["image_id"].to_pylist()
    assert len(ids) == len(set(ids)) == SHARDS * SHARD
