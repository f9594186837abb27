"""What python -m jobs.scaling measures and says: sizes, efficiency, the verdict, and one line for a mistake."""

import shutil
import socket
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.measuring.rounds import Round
from jobs.measuring.scaling_table import SCALING, scaling_table, terminal_table, verdict
from jobs.measuring.utilisation import Traffic, bound, busiest, read_traffic
from jobs.scaling import interleave, main, mesh_counts
from tests.commands import Finished
from tests.conftest import RayCluster
from tests.jobs.conftest import SAMPLE, job, mistake


def one_round(fps: float, seconds: float = 20.0, **busy: float | None) -> Round:
    return Round(round(fps * seconds), seconds, "simulated T3000", {"device": 0.99, **busy})


@pytest.fixture(scope="module")
def devices(mesh_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Random images on 1, 2, 3 meshes, too short for its figures to mean anything."""
    out = tmp_path_factory.mktemp("scaling") / "out"
    arguments = ["--device", "simulated", "--simulate", "compute=20ms", "--iterations=4", "--rounds=2", "--meshes=3"]
    done = job("scaling", mesh_cluster, "--out", str(out), *arguments).succeeded()
    return out, done


def test_every_size_does_its_share_and_its_files_describe_themselves_and_say_simulated_and_too_short(
    devices: tuple[Path, Finished],
) -> None:
    out, done = devices
    found, drawn = pq.read_table(out / "report" / "scaling.parquet"), (out / "report.html").read_text()
    rows = found.to_pylist()
    # 4 batches a mesh become 12 in all, which 1, 2 and 3 meshes share without remainder.
    batches = {(row["scaling"], row["meshes"]): row["images"] / 64 for row in rows}
    assert batches == {("weak", n): 4 * n for n in (1, 2, 3)} | {("strong", n): 12 for n in (1, 2, 3)}
    one = {row["scaling"]: row["fps"] for row in rows if row["meshes"] == 1}
    for row in rows:
        assert row["fps"] == pytest.approx(row["images"] / row["seconds"])
        assert row["efficiency"] == pytest.approx(row["fps"] / (row["meshes"] * one[row["scaling"]]))
        assert row["fps_low"] <= row["fps"] <= row["fps_high"]
        assert (row["rounds"], row["too_short"], 0 < row["device"] <= 1.05) == (2, True, True)
    assert found.schema.equals(SCALING)
    assert all(found.schema.field(name).metadata[b"description"] for name in found.column_names)
    assert found.schema.metadata[b"run_id"]
    assert all(text in done.stdout for text in ("simulated T3000", "warning: too short to quote", "(too short)"))
    assert all(text in drawn for text in ("SIMULATED", "too short to quote"))


@pytest.mark.parametrize(
    ("meshes", "expected"),
    [
        (1, [("weak", 1, 130), ("strong", 1, 130)]),
        pytest.param(2, [("weak", 1, 65), ("weak", 2, 130), ("strong", 1, 130), ("strong", 2, 130)], marks=pytest.mark.slow),
    ],
)
def test_with_data_every_size_classifies_its_images_and_leaves_a_run(
    mesh_cluster: RayCluster, tmp_path: Path, meshes: int, expected: list[tuple[str, int, int]]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for path in sorted(SAMPLE.rglob("*.jpeg"))[:130]:
        shutil.copy(path, data)
    timing = ["--device", "simulated", "--simulate", "compute=5ms", "--cache", str(tmp_path / "cache")]
    line = ["--data", str(data), "--out", str(out), *timing, f"--meshes={meshes}", "--rounds=1"]
    done = job("scaling", mesh_cluster, *line)
    assert done.code == 0, done.output
    assert f"of: {data}, decoded images kept in {tmp_path}/cache" in done.stdout
    assert list((tmp_path / "cache").rglob("*.arrow"))
    rows = pq.read_table(out / "report" / "scaling.parquet").to_pylist()
    assert [(row["scaling"], row["meshes"], row["images"]) for row in rows] == expected
    assert all(row["decode_cores"] > 0 and row["host_loop"] is None for row in rows)
    for _, size, images in expected:
        run = out / "runs" / f"{size}-meshes-{images}-images-1"
        assert len(set(pq.read_table(run / "predictions")["image_id"].to_pylist())) == images
        assert pq.read_table(run / "report" / "summary.parquet")["images"].to_pylist() == [images]


@pytest.mark.parametrize(("device", "sizes"), [("simulated", [1, 2, 4]), pytest.param("cpu", [1, 2], marks=pytest.mark.slow)])
def test_on_one_host_meshes_run_side_by_side(
    ray_cluster: RayCluster, tmp_path: Path, device: str, sizes: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    refused = mistake(main, ray_cluster, tmp_path, ["--device", "cpu", "--meshes", "3"], capfd)
    assert "the one host has 2 cores for meshes" in refused
    job("scaling", ray_cluster, "--out", str(tmp_path), "--device", device, "--iterations=4", "--rounds=1").succeeded()
    rows = pq.read_table(tmp_path / "report" / "scaling.parquet").to_pylist()
    assert [row["meshes"] for row in rows if row["scaling"] == "weak"] == sizes


@pytest.mark.parametrize(
    ("sizes", "most", "rounds", "asked"),
    [
        ([1, 2, 4], 400, 1, [(0, 1, 100), (0, 1, 400), (0, 2, 200), (0, 2, 400), (0, 4, 400)]),
        ([1, 2], 8, 2, [(0, 1, 4), (0, 1, 8), (0, 2, 8), (1, 1, 4), (1, 1, 8), (1, 2, 8)]),
    ],
)
def test_weak_scaling_keeps_the_work_per_mesh_strong_that_in_all_in_turn_and_what_both_need_runs_once(
    sizes: list[int], most: int, rounds: int, asked: list[tuple[int, int, int]]
) -> None:
    found: list[tuple[int, int, int]] = []

    def measure(n: int, work: int, number: int) -> Round:
        found.append((number, n, work))
        return one_round(n * 100)

    measured = interleave(measure, sizes, most, rounds=rounds)
    assert (found, mesh_counts(sizes[-1]), mesh_counts(6)) == (asked, sizes, [1, 2, 4, 6])
    assert list(measured) == [(kind, n) for kind in ("weak", "strong") for n in sizes]
    assert [[each.fps for each in measured[kind, 2]] for kind in ("weak", "strong")] == [[200] * rounds] * 2


def test_a_size_counts_by_its_median_round_and_the_verdict_is_of_the_largest() -> None:
    decoding = {"device": 0.6, "decode_cores": 0.91, "driver": 0.04, "network": None, "object_store": 0.25}
    two = [one_round(300), one_round(100), Round(4000, 20.0, "simulated T3000", decoding)]
    one, all_on_one = [one_round(100)] * 3, [one_round(125)] * 3
    measured = {("weak", 1): one, ("weak", 2): two, ("strong", 1): all_on_one, ("strong", 2): two}
    table = scaling_table(measured, "random images")
    assert [(row["fps"], row["fps_low"], row["fps_high"], row["efficiency"]) for row in table.to_pylist()] == [
        (100, 100, 100, 1.0),
        (200, 100, 300, 1.0),
        (125, 125, 125, 1.0),
        (200, 100, 300, 0.8),
    ]
    busy = "device 60%, decode cores 91%, driver 4%, network unknown, object store 25%"
    assert verdict(table) == f"bound with 2 meshes: decode cores (busy: {busy})"
    assert verdict(table) in terminal_table(table)
    assert "warning" not in terminal_table(table)


@pytest.mark.parametrize(
    ("busy", "waits", "bounds"),
    [
        ({"device": 0.95, "decode_cores": 0.97}, {}, "device"),
        ({"device": 0.5, "decode_cores": 0.9, "driver": 0.3}, {}, "decode cores"),
        ({"device": 0.5, "decode_cores": 0.4, "driver": 0.95}, {}, "driver"),
        ({"device": 0.5, "network": 0.9, "driver": None}, {}, "network"),
        ({"device": 0.5, "object_store": 0.99}, {}, "object store"),
        ({"device": 0.5, "host_loop": 0.99, "driver": 0.1}, {}, "host loop"),
        ({"device": 0.5, "decode_cores": 0.5, "driver": 0.5}, {}, "unknown"),
        ({"device": 0.7}, {"tail": 0.12, "start": 0.02}, "tail (12% of mesh time waiting for the last mesh)"),
    ],
)
def test_the_busiest_part_bounds_the_rest_and_nothing_is_guessed(
    busy: dict[str, float | None], waits: dict[str, float], bounds: str
) -> None:
    assert bound(busy, waits) == bounds


def test_the_network_is_as_busy_as_the_interface_that_carried_most() -> None:
    before = [Traffic(0.0, {"eth0": (0, 0, 1e9), "eth1": (0, 0, 1e9)}), Traffic(5.0, {"eth0": (7, 7, 1e9)})]
    after = [Traffic(10.0, {"eth0": (10**8, 5 * 10**8, 1e9), "eth1": (10, 10, 1e9)}), Traffic(15.0, {"eth0": (8, 9, 1e9)})]
    unknown = [Traffic(10.0, {"eth0": (10**8, 5 * 10**8, None), "eth1": (10, 10, 1e9)}), after[1]]
    assert busiest(before, after) == pytest.approx(0.4)
    assert busiest(before, unknown) is None
    assert set(read_traffic().interfaces) == {name for _, name in socket.if_nameindex()} - {"lo"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "t3000", "--boards-per-mesh", "17"], "not whole meshes of 17 boards"),
        (["--device", "simulated", "--meshes", "5"], "the cluster has room for 4"),
        (["--data", "{sample}", "--iterations", "5"], "--iterations is for random images"),
        (["--limit", "5"], "--limit goes with --data"),
        (["--cache", "kept"], "--cache goes with --data"),
        (["--device", "simulated", "--data", "{sample}", "--limit", "3"], "3 images for 4 meshes"),
        (["--device", "simulated", "--data", "{tar}"], "known only once it is read; pass --limit"),
        (["--rounds", "0"], "--rounds 0: give a whole number of at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_costs_one_line_and_exit_code_2(
    mesh_cluster: RayCluster, tmp_path: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "0000.tar", "w") as tar:
        tar.add(next(SAMPLE.rglob("*.jpeg")), "0.jpeg")
    filled = [argument.format(sample=SAMPLE, tar=tmp_path / "0000.tar") for argument in arguments]
    assert message in mistake(main, mesh_cluster, tmp_path / "out", filled, capfd)
