"""The jobs on several hosts: a mesh on each, every image answered once and rightly, late hosts put to work, no time lost."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.commit import footers_of
from jobs.pipeline.decode import decode
from tests.faults.running import MODEL, SHARD, command, prediction_files, wait_until, write_shards
from tests.rig import Rig
from vit_actor.checkpoint import load_checkpoint
from vit_actor.simulated import expected_class

LIMIT = 280.0
"""For one step of four hosts on an overloaded machine; an idle one takes a tenth."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def named(out: Path, what: str) -> set[str]:
    """What the footers of the predictions committed so far say: their "mesh", or the "read_host" of their images."""
    return {footer[what] for file in prediction_files(out) for footer in footers_of(pq.read_metadata(file))}


def meshes(out: Path) -> set[str]:
    return named(out, "mesh")


def expected(folder: Path) -> dict[str, int]:
    """What a simulated device answers for every image of the shards, by image id."""
    preprocess = load_checkpoint(str(MODEL)).preprocess
    pixels = np.empty((1, *preprocess.shape), np.uint8)
    found = {}
    for file in sorted(folder.iterdir()):
        for row, image in enumerate(pq.read_table(file)["image"].to_pylist()):
            decode(image, preprocess, pixels[0])
            found[f"{file.name}#{row}"] = int(expected_class(pixels, 10)[0])
    return found


def interrupt(job: subprocess.Popen[str]) -> None:
    """Ctrl-C for a command on the rig: not for nsenter, which waits for it."""
    (inside,) = psutil.Process(job.pid).children()
    inside.send_signal(signal.SIGINT)
    job.wait(LIMIT)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(loudboxes=3, object_store_mb=400) as rig:
        yield rig


def test_every_host_gets_an_actor_late_ones_too_and_every_image_one_right_answer(rig: Rig, tmp_path: Path) -> None:
    data, out = write_shards(tmp_path / "data", 120), tmp_path / "out"
    # Slow enough that minutes later there is still work for whoever comes last.
    slow = ["python", *command(data, out, "compute=5s")]
    job = rig.start(slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    wait_until(lambda: meshes(out) == {f"loudbox-{n}/0-3" for n in (1, 2, 3)}, job, LIMIT)
    rig.add_host("late")
    wait_until(lambda: "late/0-3" in meshes(out), job, LIMIT)
    interrupt(job)
    rig.run(["python", *command(data, out, "compute=1ms", "--resume")], timeout=LIMIT)

    got = pq.read_table(out / "predictions")
    assert got.num_rows == 120 * SHARD
    assert dict(zip(got["image_id"].to_pylist(), got["prediction"].to_pylist(), strict=True)) == expected(data)
    assert meshes(out) == {f"{host}/0-3" for host in ("loudbox-1", "loudbox-2", "loudbox-3", "late")}
    assert all(row["mesh"] == f"{row['host']}/0-3" for row in got.select(["host", "mesh"]).to_pylist())


def test_a_host_without_boards_decodes_for_those_with_boards(rig: Rig, tmp_path: Path) -> None:
    rig.add_host("helper", boards=0, cpus=4)
    data, out = write_shards(tmp_path / "data", 60), tmp_path / "out"

    rig.run(["python", *command(data, out, "compute=1ms")], timeout=LIMIT)

    assert "helper" in named(out, "read_host")
    assert meshes(out) <= {f"{host}/0-3" for host in ("loudbox-1", "loudbox-2", "loudbox-3", "late")}
    assert pq.read_table(out / "predictions").num_rows == 60 * SHARD


def test_no_mesh_waits_while_another_has_work_for_it(rig: Rig, tmp_path: Path) -> None:
    data, out = write_shards(tmp_path / "data", 48, images=512), tmp_path / "out"

    rig.run(["python", *command(data, out, "compute=200ms")], timeout=LIMIT)

    found = pq.read_table(out / "report" / "meshes.parquet").to_pylist()
    busy = sum(mesh["busy_seconds"] for mesh in found)
    waited = sum(mesh["wait_stream_seconds"] + mesh["wait_tail_seconds"] for mesh in found)
    assert len(found) >= 3
    assert waited / (busy + waited) <= 0.1  # a chunk of the last round each is 4% to 6%
    assert sum(mesh["batches"] for mesh in found) <= 48 * 512 / 64 + len(found)


def test_four_hosts_do_four_times_the_work_of_one(rig: Rig, tmp_path: Path) -> None:
    if "late" not in rig.hosts:
        rig.add_host("late")

    # A round of 5 s: waking up 0.2 s late, as a busy machine may, still leaves 96%.
    line = ["python", "-m", "jobs.scaling", "--model", str(MODEL), "--out", str(tmp_path), "--device=simulated"]
    rig.run([*line, "--simulate=compute=400ms", "--iterations=12", "--warmup=2", "--rounds=1"], timeout=LIMIT)

    measured = pq.read_table(tmp_path / "report" / "scaling.parquet").to_pylist()
    assert [(row["scaling"], row["meshes"]) for row in measured] == [(s, n) for s in ("weak", "strong") for n in (1, 2, 4)]
    assert min(row["efficiency"] for row in measured) >= 0.95
    assert {row["bound"] for row in measured} == {"device"}
