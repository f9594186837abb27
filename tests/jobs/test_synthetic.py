"""What python -m jobs.synthetic reports of devices whose times are known, and what it says when they do not work."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from jobs.measuring.loadgen import LIBRARY, Run, faults
from jobs.measuring.meshes import Measured, Mesh, Work, start_meshes, system_fps, system_seconds
from jobs.pipeline.placement import Placement
from jobs.running.manifest import Manifest, load_manifest
from jobs.running.session import ray_session
from jobs.settings import SyntheticSettings
from jobs.synthetic import (
    ITERATIONS,
    LEAST_IMAGES,
    LEAST_ITERATIONS,
    LEAST_SECONDS,
    MESHES,
    main,
    mesh_table,
    shortcomings,
    sweep,
)
from tests.commands import Finished
from tests.conftest import RayCluster
from tests.jobs.conftest import MODEL, ended, job, mistake
from vit_actor.checkpoint import load_checkpoint
from vit_actor.errors import UserError
from vit_actor.simulated import SimulatedTiming, SimulatedVit, expected_class


def measured(mesh: str, began: float, seconds: list[float], host_seconds: float = 0.0) -> Measured:
    """A mesh of 64 images a batch that was never idle."""
    times = np.array(seconds)
    return Measured(mesh, "simulated", 64, 1.0, began + np.cumsum(times) - times, times, began, began + times.sum(), host_seconds)


@pytest.fixture(scope="module")
def two_meshes(mesh_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    out = tmp_path_factory.mktemp("synthetic") / "out"
    line = ["--out", str(out), "--device", "simulated", "--simulate", "compute=30ms,upload=20ms,readback=10ms,compile=200ms"]
    done = job("synthetic", mesh_cluster, *line, "--meshes=2", "--iterations=40", "--warmup=5", "--seed=7").succeeded()
    return out, done


def test_a_devices_times_are_reported_as_they_are_and_said_to_be_simulated_and_too_short(
    two_meshes: tuple[Path, Finished], mesh_cluster: RayCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    out, done = two_meshes
    for name, schema, count in (("iterations", ITERATIONS, 80), ("synthetic", MESHES, 3)):
        found = pq.read_table(out / "report" / f"{name}.parquet")
        assert found.schema.equals(schema)
        assert all(found.schema.field(column).metadata[b"description"] for column in found.column_names)
        assert found.num_rows == count
    rows = found.to_pylist()
    assert len({row["mesh"] for row in rows}) == 3
    assert [row["mesh"] for row in rows][-1] == "system"
    for row in rows:
        # Compute bounds it: upload and read-back are hidden. Idle time makes iterations no longer, only fewer a second.
        assert row["inference_ms"] == pytest.approx(30, rel=0.05)
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["compile_seconds"] == pytest.approx(0.2)
        assert row["batch_size"] == 64
        assert row["host_share"] == pytest.approx(row["host_ms"] / row["inference_ms"])
        assert row["too_short"].startswith("40 iterations, below 100; ")
    assert [row["iterations"] for row in rows] == [40, 40, 80]
    assert [row["images"] for row in rows] == [2560, 2560, 5120]
    assert [row["seed"] for row in rows] == [7, 8, None]
    assert all(row["fps"] <= 64 / 0.030 * 1.02 for row in rows[:2])
    assert rows[2]["fps"] <= rows[0]["fps"] + rows[1]["fps"] + 1e-6
    manifest = load_manifest(str(out))
    assert manifest
    assert (manifest.finished, manifest.settings["seed"]) == (True, 7)
    assert "simulated T3000" in done.stdout
    assert "warning: too short to quote (40 iterations, below 100; " in done.stdout
    code, told = ended(lambda: main(["--out", str(out), "--model", str(MODEL), "--address", mesh_cluster.address]), capfd)
    assert (code, "--overwrite" in told) == (2, True)


def test_loadgen_drives_every_mesh_and_its_verdict_and_logs_are_kept(mesh_cluster: RayCluster, tmp_path: Path) -> None:
    line = ["--device=simulated", "--simulate=compute=20ms", "--meshes=2", "--iterations=40", "--loadgen", f"--out={tmp_path}"]
    done = job("synthetic", mesh_cluster, *line, "--seconds=2", "--images=100", "--seed=7").succeeded()
    assert "unofficial, since ViT is no model of MLPerf" in done.stdout
    quick = r"images/s, .*% beside the job's own loop; VALID for a quick look only \(2 s, below 600 s; 100 images, below 24,576\)"
    assert len(re.findall(quick, done.stdout)) == 2
    logs = tmp_path / "report" / "loadgen"
    summaries = [(logs / mode / "mlperf_log_summary.txt").read_text() for mode in ("accuracy", "performance", "TEST01")]
    assert all("Scenario : Offline" in text for text in summaries[1:])
    assert all("Result is : VALID" in text and "min_duration (ms): 2000" in text for text in summaries[1:])
    library = np.random.default_rng(7).integers(0, 256, (LIBRARY, 64, 64, 3), dtype=np.uint8)
    right = {n: answer.tobytes().hex().upper() for n, answer in enumerate(expected_class(library, 10).astype("<i4"))}
    for mode, least in (("accuracy", LIBRARY), ("TEST01", 100)):
        logged = json.loads((logs / mode / "mlperf_log_accuracy.json").read_text())
        assert len(logged) >= least
        assert {each["qsl_idx"]: each["data"] for each in logged}.items() <= right.items()


@pytest.mark.parametrize(
    ("accuracy", "audit", "verdict", "wrong"),
    [
        ([(0, "01"), (1, "02")], [(1, "02")], "VALID", []),
        ([(0, "01"), (1, "02")], [(1, "03"), (1, "03")], "VALID", ["TEST01: other answers than in accuracy mode for 1 images"]),
        ([(0, "01")], [(1, "02")], "VALID", ["TEST01: other answers than in accuracy mode for 1 images"]),
        ([(0, "01")], [], "VALID", ["TEST01: no answer was logged"]),
        ([(0, "01")], [(0, "01")], "INVALID", ["performance is INVALID", "TEST01 is INVALID"]),
    ],
)
def test_a_verdict_of_loadgens_and_an_answer_that_changes_are_faults(
    accuracy: list[tuple[int, str]], audit: list[tuple[int, str]], verdict: str, wrong: list[str]
) -> None:
    timed = f"Samples per second: 10.5\nResult is : {verdict}\n"
    assert faults([Run("accuracy", "", accuracy), Run("performance", timed, []), Run("TEST01", timed, audit)]) == wrong


def test_without_loadgen_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.measuring.loadgen.PACKAGE", "mlcommons-loadgen-of-another-name")
    with pytest.raises(UserError, match="uv pip install mlcommons-loadgen"):
        main(["--out", "/nowhere", "--model", str(MODEL), "--loadgen"])


@pytest.mark.slow
def test_a_sweep_shows_the_rate_over_the_latency(mesh_cluster: RayCluster, tmp_path: Path) -> None:
    logs = tmp_path / "report" / "loadgen" / "TEST01" / "mlperf_log_detail.txt"
    logs.parent.mkdir(parents=True)
    logs.touch()  # of the run that it replaces
    line = ["--device=simulated", "--simulate=compute=20ms,upload=1ms,readback=1ms", "--meshes=1", "--iterations=20"]
    done = job("synthetic", mesh_cluster, *line, "--sweep", "--overwrite", f"--out={tmp_path}")
    assert done.code == 0, done.output
    assert not logs.exists()
    table = pq.read_table(tmp_path / "report" / "sweep.parquet")
    assert table.schema.equals(MESHES)
    rows = table.to_pylist()
    assert [(row["mesh"], row["batch_size"]) for row in rows] == [(f"{n} per chip", 8 * n) for n in (1, 2, 4, 8, 16)]
    for row in rows:
        # Two batches wait on the device while one is computed.
        assert 2 * row["inference_ms"] < row["latency_p50_ms"] < row["latency_p99_ms"] + 1e-9
        assert f"{row['fps']:,.1f}" in done.stdout
    drawn = (tmp_path / "report.html").read_text()
    assert all(text in drawn for text in ("SIMULATED", "16 per chip", "Too short to quote", "20 iterations, below 100"))


def test_a_size_that_a_device_refuses_is_told_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.synthetic.drive_together", lambda meshes, work: [measured("a", 0.0, [0.1] * 3)])

    def start(settings: SyntheticSettings) -> list[object]:
        if (settings.images_per_chip or 0) > 8:
            raise UserError("it does not fit")
        return []

    settings, chosen = SyntheticSettings(out=str(tmp_path), device="simulated"), {"device": "simulated"}
    manifest = Manifest.of("synthetic", settings, load_checkpoint(str(MODEL)), data="random images", settings=chosen)
    told = sweep(settings, Work(0, 0, 1, 1), manifest, start)
    rows = pq.read_table(tmp_path / "report" / "sweep.parquet").to_pylist()
    assert [row["mesh"] for row in rows] == [f"{n} per chip" for n in (1, 2, 4, 8)]
    assert "16 per chip: it does not fit" in told


def test_a_device_that_fails_ends_the_job_in_one_line(mesh_cluster: RayCluster, tmp_path: Path) -> None:
    line = ["--device=simulated", "--simulate=compute=1ms,fail_after=20", "--meshes=1", f"--out={tmp_path}"]
    done = job("synthetic", mesh_cluster, *line)
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert told.startswith("error: the simulated device failed after 20 batches, as asked; Ray's log: ")
    assert (done.code, "Traceback" in done.output) == (1, False)
    manifest = load_manifest(str(tmp_path))
    assert manifest
    assert manifest.attempts[-1]["state"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device=t3000"], "no host has 4 free Tenstorrent boards"),
        (["--device=simulated", "--meshes=2"], "the cluster has room for 1"),
        (["--device=simulated", "--seconds=nan"], "--seconds nan: give a number of at least 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_costs_one_line_and_exit_code_2(
    ray_cluster: RayCluster, tmp_path: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message in mistake(main, ray_cluster, tmp_path / "out", arguments, capfd)


def test_meshes_that_another_job_holds_are_named(mesh_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in mesh_cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("jobs.measuring.meshes.PLACE_SECONDS", 3.0)
    with ray_session(mesh_cluster.address):
        held = [ray.remote(Mesh).options(num_cpus=0, resources={"TTNPU": 4}).remote() for _ in range(3)]
        ray.get([mesh.placed.remote() for mesh in held])
        with pytest.raises(UserError, match=r"only [01] of 4 meshes were free within 0 s; wait for other jobs"):
            start_meshes(Placement("simulated", 4, 0.5, 4, 1.0), SimulatedVit, (8, 8, 3), seed=0, wait_seconds=0)


class Recording(SimulatedVit):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(SimulatedTiming(compute=1e-3, compile=0), batch_size=8)
        self.seen: list[np.ndarray] = []

    def classify(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            self.seen.append(batch)
            yield from super().classify([batch])


@pytest.mark.parametrize(
    ("work", "iterations"),
    [
        (Work(seconds=0, images=0, iterations=12, warmup=3), 12),
        (Work(seconds=0, images=8 * 20, iterations=12, warmup=3), 20),
        (Work(seconds=0, images=8 * 20 + 1, iterations=1, warmup=1), 21),
    ],
)
def test_a_mesh_works_until_all_is_reached_that_was_asked_for_on_images_of_its_seed(
    work: Work, iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.measuring.meshes.mesh_name", lambda host, number: f"{host}/0-3")
    seen = []
    for seed in (1, 1, 2):
        mesh, device = Mesh(), Recording()
        mesh.open(lambda device=device: device, (32, 32, 3), seed=seed)  # type: ignore[misc]
        done = mesh.drive(work, start_at=0.0)
        assert len(done.seconds) == len(done.started_at) == iterations
        assert (done.images, done.ended_at > done.began_at) == (8 * iterations, True)
        assert len(device.seen) == work.warmup + iterations
        assert all((batch == device.seen[0]).all() for batch in device.seen)
        seen.append(device.seen[0])
    assert (seen[0] == seen[1]).all()
    assert (seen[0] != seen[2]).any()


def test_the_systems_rate_spans_all_meshes_and_its_percentiles_pool_them() -> None:
    meshes = [measured("a", 100.0, [0.1] * 10, host_seconds=0.02), measured("b", 100.5, [0.2] * 10, host_seconds=0.06)]
    assert system_seconds(meshes) == pytest.approx(2.5)
    assert system_fps(meshes) == pytest.approx(1280 / 2.5)
    a, b, system = mesh_table(meshes, seed=3).to_pylist()
    assert (a["fps"], b["fps"]) == (pytest.approx(640), pytest.approx(320))
    assert (a["p50_ms"], b["p50_ms"], system["p50_ms"]) == (pytest.approx(100), pytest.approx(200), pytest.approx(150))
    assert system["host_ms"] == pytest.approx(4)


def test_only_a_run_long_enough_by_every_rule_may_be_quoted() -> None:
    enough = [LEAST_SECONDS / LEAST_IMAGES * 64 * 1.001] * (LEAST_IMAGES // 64)
    assert shortcomings([measured("a", 0.0, enough)]) == []
    assert len(shortcomings([measured("a", 0.0, enough), measured("b", 0.0, enough[:-1])])) == 2
    assert len(shortcomings([measured("a", 0.0, [0.01] * (LEAST_ITERATIONS - 1))])) == 3
