"""Actors that are killed, hang, or are killed by what they are given: every image keeps its one right answer."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import RayCluster
from tests.faults.poisoned import flat
from tests.faults.running import Case, Job, answers, run, summary, write_shards
from tests.pipeline.corpus import jpeg


def test_an_actor_killed_in_mid_batch_is_replaced_and_nothing_is_lost(case: Case) -> None:
    # Slower than chunks are decoded, so that some wait on each mesh; without --meshes an actor that waits for a mesh to join the
    # cluster may take the killed one's place.
    job = case.start("compute=800ms", "--meshes=2")
    job.wait_for_commits(2)
    case.kill_one("Classifier")
    done = job.end()
    case.check_right(done)
    assert case.summary["restarts"] == 1
    assert case.summary["retries"] >= 1
    assert "actors restarted: 1" in done.stdout


@pytest.mark.slow
def test_a_device_that_stops_answering_is_given_up_after_the_limit_and_its_boards_serve_the_next_actor(case: Case) -> None:
    # The one mesh answers 36 batches, checks among them, and hangs; so would its successors, were 36 left for one.
    case = case.under(LOUDBOX_CHECK_SECONDS="1")
    done = case.run("compute=150ms,hang_after=36", "--meshes=1", "--device-limit=2")
    case.check_right(done)
    faults = pq.read_table(case.out / "report" / "faults.parquet").to_pylist()
    assert [fault["what"] for fault in faults if fault["kind"] == "device"] == ["no answer for 2 s: the device hangs"]
    assert case.summary["restarts"] == 1
    assert "of the chunks, which are classified again" in done.stderr


@pytest.mark.slow
def test_the_image_that_kills_its_actor_is_an_error_and_costs_no_other_its_answer(meshes: RayCluster, tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 6, images=24)
    assert run(meshes, data, tmp_path / "expected").code == 0
    images = [jpeg(n, 16, 16) for n in range(48, 72)]
    images[5] = flat()
    pq.write_table(pa.table({"image": images, "label": [n % 10 for n in range(48, 72)]}), data / "0002.parquet")
    arguments = ["compute=10ms", "--meshes=1", "--max-errors=1"]
    done = Job.start(meshes, data, tmp_path / "out", *arguments, module="tests.faults.poisoned").end().succeeded()
    got, expected = answers(tmp_path / "out").rows, answers(tmp_path / "expected").rows
    assert "the device fails on this image" in got.pop("0002.parquet#5")
    del expected["0002.parquet#5"]
    assert got == expected
    assert summary(tmp_path / "out")["given_up"] == 1
    assert "images given up: 1" in done.stdout


@pytest.mark.slow
def test_a_killed_decode_worker_costs_no_image(meshes: RayCluster, tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 4, images=300, size=200)  # a task lasts long enough to be hit
    assert run(meshes, data, tmp_path / "expected").code == 0
    case = Case(meshes, data, answers(tmp_path / "expected"), tmp_path / "out")
    job = case.start("compute=1ms")
    case.kill_one("read_chunks")
    case.check_right(job.end())


@pytest.mark.slow
def test_an_actor_without_boards_that_is_replaced_is_the_same_mesh(case: Case, ray_cluster: RayCluster) -> None:
    case = replace(case, cluster=ray_cluster)
    job = case.start("compute=400ms", "--meshes=1")
    job.wait_for_commits(2)
    case.kill_one("Classifier")
    case.check_right(job.end())
    assert (case.summary["restarts"], case.summary["meshes"]) == (1, 1)
