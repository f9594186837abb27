"""The jobs on several hosts: a mesh on each, late ones too; every image has its one right answer whatever host comes or goes."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.decode import decode
from tests.faults.running import LIMIT, MODEL, Answers, Job, answers, command, committed, kill_one, summary, write_shards
from tests.faults.running import footers as footers_of
from tests.rig import Rig
from vit_actor.checkpoint import load_checkpoint
from vit_actor.simulated import expected_class

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DRAIN = ["ray", "drain-node", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=maintenance"]
ALIVE = "import ray; ray.init(log_to_driver=False); print([n['NodeManagerHostname'] for n in ray.nodes() if n['Alive']])"


@pytest.fixture(scope="module")
def whole() -> Iterator[Rig]:
    with Rig(loudboxes=2, object_store_mb=400) as rig:
        yield rig


@pytest.fixture
def rig(whole: Rig) -> Rig:
    """Of two LoudBoxes."""
    for name in whole.hosts.keys() - {"head", "loudbox-1", "loudbox-2"}:
        whole.kill_host(name)
    return with_loudboxes(whole, 2)


def with_loudboxes(rig: Rig, count: int) -> Rig:
    for number in range(1, count + 1):
        if f"loudbox-{number}" not in rig.hosts:
            rig.add_host(f"loudbox-{number}")
    return rig


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("rig") / "data", 48)


@pytest.fixture(scope="module")
def undisturbed(whole: Rig, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Compared with what a simulated device answers for each image's pixels."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    finish(start(whole, data, out, "compute=1ms"))
    preprocess, expected = load_checkpoint(str(MODEL)).preprocess, {}
    pixels = np.empty((1, *preprocess.shape), np.uint8)
    for file in sorted(data.iterdir()):
        for row, image in enumerate(pq.read_table(file)["image"].to_pylist()):
            decode(image, preprocess, pixels[0])
            expected[f"{file.name}#{row}"] = str(expected_class(pixels, 10)[0])
    found = answers(out)
    assert {image: row[1] for image, row in found.rows.items()} == expected
    return found


def start(rig: Rig, data: Path, out: Path, timing: str, *arguments: str) -> Job:
    return Job(rig.command(["python", *command(data, out, timing, *arguments)]), out)


def finish(job: Job) -> str:
    done = job.end().succeeded()
    return done.output


def hosts(out: Path) -> list[str]:
    """The hosts of the committed chunks' meshes."""
    return [footer["mesh"].partition("/")[0] for footer in footers_of(out)]


def wait_for(job: Job, *names: str) -> None:
    job.wait_until(lambda: set(hosts(job.out)) == set(names))


def test_a_late_host_works_and_an_interrupted_run_is_resumed(rig: Rig, data: Path, undisturbed: Answers, tmp_path: Path) -> None:
    job = start(rig, data, tmp_path, "compute=5s")  # minutes later there is still work for whoever comes last
    wait_for(job, "loudbox-1", "loudbox-2")
    rig.add_host("late")
    wait_for(job, "loudbox-1", "loudbox-2", "late")
    rig.send(job.process.pid, signal.SIGINT)
    job.end()
    finish(start(rig, data, tmp_path, "compute=1ms", "--resume"))
    assert answers(tmp_path) == undisturbed
    rows = pq.read_table(tmp_path / "predictions", columns=["host", "mesh"]).to_pylist()
    assert all(row["mesh"] == f"{row['host']}/0-3" for row in rows)


def test_a_host_without_boards_decodes_for_those_with_boards(rig: Rig, data: Path, undisturbed: Answers, tmp_path: Path) -> None:
    rig.add_host("helper")
    finish(start(rig, data, tmp_path, "compute=1ms"))
    assert "helper" in {footer["read_host"] for footer in footers_of(tmp_path)}
    assert set(hosts(tmp_path)) <= {"loudbox-1", "loudbox-2"}
    assert answers(tmp_path) == undisturbed


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_lost_host_costs_no_image(rig: Rig, data: Path, undisturbed: Answers, tmp_path: Path, comes_back: bool) -> None:
    job = start(rig, data, tmp_path, "compute=2s")
    wait_for(job, "loudbox-1", "loudbox-2")
    rig.kill_host("loudbox-2")
    before = committed(tmp_path)
    if comes_back:
        count = hosts(tmp_path).count("loudbox-2")
        rig.add_host("loudbox-2")
        job.wait_until(lambda: hosts(tmp_path).count("loudbox-2") > count)
    assert "hosts lost: 1" in finish(job)
    assert answers(tmp_path) == undisturbed
    assert summary(tmp_path)["lost_hosts"] == ["loudbox-2"]
    assert committed(tmp_path).items() >= before.items()


def test_a_drained_loudbox_finishes_its_batches_and_leaves(rig: Rig, data: Path, undisturbed: Answers, tmp_path: Path) -> None:
    job = start(rig, data, tmp_path, "compute=2s")
    wait_for(job, "loudbox-1", "loudbox-2")
    rig.run(DRAIN, host="loudbox-2", timeout=LIMIT)
    job.wait_until(lambda: "loudbox-2" not in rig.run(["python", "-c", ALIVE], timeout=LIMIT).stdout)
    done_there = hosts(tmp_path).count("loudbox-2")
    events = rig.run(["bash", "-c", "cat $RAY_TMPDIR/ray/session_latest/logs/worker-*.err"], host="loudbox-2").stdout
    run_id = json.loads((tmp_path / "manifest.json").read_text())["run_id"]
    rig.kill_host("loudbox-2")
    assert "loudbox-2: is being drained" in finish(job)
    assert answers(tmp_path) == undisturbed
    assert hosts(tmp_path).count("loudbox-2") == done_there > 0
    told = [json.loads(line) for line in events.splitlines() if line.startswith("{")]
    assert [e["event"] for e in told if e["run_id"] == run_id] == ["mesh opened", "host drains", "mesh drained"]


def test_any_number_of_streams_gives_the_same_answers(rig: Rig, data: Path, undisturbed: Answers, tmp_path: Path) -> None:
    with_loudboxes(rig, 4)
    for streams in (2, 4):
        finish(start(rig, data, tmp_path / str(streams), "compute=1us", f"--streams={streams}"))
        assert answers(tmp_path / str(streams)) == undisturbed
    job = start(rig, data, tmp_path / "killed", "compute=1s", "--streams=4")
    job.wait_for_commits(4)
    kill_one(rig.home, "_Process")
    finish(job)
    assert answers(tmp_path / "killed") == undisturbed


def test_no_mesh_waits_while_another_has_work_for_it(rig: Rig, tmp_path: Path) -> None:
    with_loudboxes(rig, 3)
    data, out = write_shards(tmp_path / "data", 48, images=512), tmp_path / "out"
    finish(start(rig, data, out, "compute=200ms"))
    found = pq.read_table(out / "report" / "meshes.parquet").to_pylist()
    busy = sum(mesh["busy_seconds"] for mesh in found)
    waited = sum(mesh["wait_stream_seconds"] + mesh["wait_tail_seconds"] for mesh in found)
    assert len(found) == 3
    assert waited / (busy + waited) <= 0.1  # a chunk of the last round each is 4% to 6%
    assert sum(mesh["batches"] for mesh in found) <= 48 * 512 / 64 + len(found)


def test_four_hosts_do_four_times_the_work_of_one(rig: Rig, tmp_path: Path) -> None:
    # A round of 5 s: waking up 0.2 s late, as a busy machine may, still leaves 96%.
    line = ["python", "-m", "jobs.scaling", "--model", str(MODEL), "--out", str(tmp_path), "--device=simulated"]
    line += ["--simulate=compute=400ms", "--iterations=12", "--warmup=2", "--rounds=1"]
    with_loudboxes(rig, 4).run(line, timeout=LIMIT)
    measured = pq.read_table(tmp_path / "report" / "scaling.parquet").to_pylist()
    assert [(row["scaling"], row["meshes"]) for row in measured] == [(s, n) for s in ("weak", "strong") for n in (1, 2, 4)]
    assert min(row["efficiency"] for row in measured) >= 0.95
    assert {row["bound"] for row in measured} == {"device"}
