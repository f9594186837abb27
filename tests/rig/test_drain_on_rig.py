"""A LoudBox that is drained in the middle of a run commits what it has begun and goes; the others do the rest."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.running import LIMIT, SHARD, command, wait_until, write_shards
from tests.rig import Rig

SHARDS = 60
DRAIN = ["ray", "drain-node", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=maintenance"]
ALIVE = "import ray; ray.init(log_to_driver=False); print([n['NodeManagerHostname'] for n in ray.nodes() if n['Alive']])"


def hosts(out: Path) -> list[str]:
    """The host of every committed row so far."""
    files = (out / "predictions").rglob("[!.]*.parquet")
    return [host for file in files for host in pq.read_table(file)["host"].to_pylist()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_drained_loudbox_finishes_its_batches_and_leaves_and_every_image_has_one_row(tmp_path: Path) -> None:
    data, out = write_shards(tmp_path / "data", SHARDS), tmp_path / "out"
    with Rig(loudboxes=2, object_store_mb=400) as rig:
        job = rig.start(["python", *command(data, out, "compute=2s")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_until(lambda: set(hosts(out)) == {"loudbox-1", "loudbox-2"}, job)

        rig.run(DRAIN, host="loudbox-2", timeout=LIMIT)
        wait_until(lambda: "loudbox-2" not in rig.run(["python", "-c", ALIVE], timeout=LIMIT).stdout, job)
        done_there = hosts(out).count("loudbox-2")
        events = rig.run(["bash", "-c", "cat $RAY_TMPDIR/ray/session_latest/logs/worker-*.err"], host="loudbox-2").stdout
        said, _ = job.communicate(timeout=LIMIT)

    assert job.returncode == 0, said
    assert "loudbox-2: is being drained" in said
    rows = pq.read_table(out / "predictions")
    ids = rows["image_id"].to_pylist()
    assert len(ids) == len(set(ids)) == SHARDS * SHARD
    assert rows["error"].null_count == rows.num_rows
    assert rows["host"].to_pylist().count("loudbox-2") == done_there > 0
    drained = [json.loads(line)["event"] for line in events.splitlines() if line.startswith("{")]
    assert drained == ["mesh opened", "host drains", "mesh drained"]
    assert json.loads((out / "manifest.json").read_text())["attempts"][-1]["state"] == "finished"
