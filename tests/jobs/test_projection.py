"""The projection: right about runs that were measured, and what it advises does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.measuring.rounds import through_pipeline
from jobs.pipeline.placement import Placement
from jobs.pipeline.sources import open_source, surveyed
from jobs.projection import TABLE, System, enough_streams, main, markdown, project
from jobs.running.session import ray_session
from tests.commands import ROOT
from tests.conftest import RayCluster
from vit_actor.checkpoint import load_checkpoint
from vit_actor.errors import UserError
from vit_actor.opening import DeviceRequest

MODEL = ROOT / "jobs" / "sample" / "model"
SAMPLE = sorted((ROOT / "jobs" / "sample" / "images").rglob("*.jpeg"))
SHARDS, SHARD_IMAGES, BATCH, COMPUTE = 8, 512, 64, 0.15
"""Shards of one chunk each, so many a mesh, on devices so slow (1.2 s a chunk) that two shared cores keep four of them busy."""
BILLION = System()


@pytest.fixture(scope="module")
def environment(mesh_cluster: RayCluster) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mesh_cluster.environment.items():
            patch.setenv(name, value)
        yield


def write_shards(folder: Path) -> Path:
    folder.mkdir()
    for number in range(4 * SHARDS):
        paths = [SAMPLE[(number * SHARD_IMAGES + i) % len(SAMPLE)] for i in range(SHARD_IMAGES)]
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
        pq.write_table(pa.table({"image": images}), folder / f"{number:03d}.parquet")
    return folder


def steady_fps(out: Path) -> float:
    """Images per second of all meshes in the second half of the run, until the first of them runs out."""
    batches = pq.read_table(out / "predictions", columns=["mesh", "batch", "started_at", "batch_seconds"]).to_pandas()
    batches = batches.groupby(["mesh", "batch"]).first().reset_index()
    end = batches["started_at"].astype(np.int64) / 1e6 + batches["batch_seconds"]
    first, last = end.median(), end.groupby(batches["mesh"]).max().min()
    return float(((end > first) & (end <= last + 1e-3)).sum()) * BATCH / (last - first)


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_it_agrees_with_measured_runs_on_1_2_and_4_meshes_to_a_tenth(mesh_cluster: RayCluster, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(MODEL))
    data = write_shards(tmp_path / "data")
    measured, alone = {}, None

    with ray_session(mesh_cluster.address):
        # The first run starts the workers that the others use.
        for meshes, compute in ((4, 0.01), (1, COMPUTE), (2, COMPUTE), (4, COMPUTE)):
            limit = meshes * SHARDS * SHARD_IMAGES
            source = open_source(str(data), checkpoint_classes=checkpoint.class_names, limit=limit)
            request = DeviceRequest(
                "simulated", checkpoint.name, checkpoint.path, checkpoint.digest, 10, BATCH, 1, "auto", f"compute={compute}s"
            )
            out = tmp_path / f"{meshes}-{compute}"
            placement = Placement("simulated", meshes, 0.5, 4, 1.0)
            shards = surveyed(source).shards
            sample = through_pipeline(source, shards, checkpoint, request, images=limit, placement=placement, out=str(out))
            if compute == COMPUTE:
                measured[meshes] = steady_fps(out)
                alone = alone or sample

    assert alone is not None
    assert alone.busy.decode_cores is not None
    assert alone.busy.driver is not None
    system = System(
        cores=3,
        mesh_fps=BATCH / COMPUTE,
        decode_fps=alone.images / (alone.busy.decode_cores * 3.5 * alone.seconds),
        driver_seconds=alone.busy.driver * alone.seconds / SHARDS,
        shard_images=SHARD_IMAGES,
    )
    projected = {meshes: project(replace(system, loudboxes=meshes)) for meshes in measured}
    assert {meshes: p.fps for meshes, p in projected.items()} == pytest.approx(measured, rel=0.1)
    assert {p.bound for p in projected.values()} == {"device"}


@pytest.mark.parametrize(
    ("changes", "bound", "fps"),
    [
        ({"images": 2**20, "shard_images": 2**20}, "decode cores", 900),
        ({"cores": 9, "shard_images": 1000}, "decode cores", 8 * 900),
        ({"cores": 9, "helper_cores": 2, "shard_images": 1000}, "decode cores", 10 * 900),
        ({"network": 8.0, "shard_images": 512}, "network", 1e9 / (110_000 + 150_528)),
        ({"network": 8.0, "shard_images": 512, "local": 1.0}, "network", 1e9 / 110_000),
        ({"shard_images": 512}, "device", 10_584),
        ({"shard_images": 1}, "commits", 3 / 0.05),
        ({"shard_images": 512, "driver_seconds": 0.1, "commit_seconds": 0.0}, "driver", 5120),
        ({"shard_images": 96, "batch_images": 64, "commit_seconds": 0.0, "driver_seconds": 0.0}, "device", 10_584 * 96 / 128),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_part_bounds_a_run_when_it_is_the_slowest(changes: dict, bound: str, fps: float) -> None:
    projected = project(replace(BILLION, **changes))

    assert projected.bound == bound
    assert projected.fps == pytest.approx(fps, rel=1e-3)


def test_the_helper_cores_it_advises_are_enough_and_one_fewer_is_not() -> None:
    short = replace(BILLION, loudboxes=16, streams=16, cores=8, shard_images=512)
    advised = project(short).helper_cores

    assert advised > 0
    assert project(replace(short, helper_cores=advised)).bound == "device"
    assert project(replace(short, helper_cores=advised)).helper_cores == 0
    assert project(replace(short, helper_cores=advised - 1)).bound == "decode cores"


def test_the_streams_it_advises_are_enough_and_one_fewer_is_not() -> None:
    many = enough_streams(replace(BILLION, loudboxes=64))

    assert many.streams > 1
    assert project(many).bound == "device"
    assert project(replace(many, streams=many.streams - 1)).bound in ("driver", "commits")


def test_the_streams_and_helpers_it_advises_together_leave_the_device_as_the_bound() -> None:
    many = enough_streams(replace(BILLION, loudboxes=64, cores=16, decode_fps=450.0))
    advised = project(many).helper_cores

    assert project(many).bound == "decode cores"
    assert project(replace(many, helper_cores=advised)).bound == "device"


def test_nothing_it_could_be_asked_without_sense_gets_an_answer() -> None:
    for changes in ({"loudboxes": 0}, {"cores": 1}, {"images": 0}, {"streams": 2}, {"network": 0.0}, {"local": 2.0}):
        with pytest.raises(UserError, match="a projection needs"):
            project(replace(BILLION, **changes))
    with pytest.raises(UserError, match="a projection needs"):
        main(["--shard-images", "0"])


def test_the_table_in_the_documentation_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0

    printed = capsys.readouterr().out
    assert printed.startswith("**A projection, not a measurement**")
    assert [line.split("|")[1].strip() for line in printed.splitlines()[4:]] == [f"{n:,}" for n in TABLE]
    assert printed in (ROOT / "jobs" / "README.md").read_text()


def test_the_table_follows_what_it_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--cores", "16", "--decode-fps", "450"])

    assert capsys.readouterr().out.strip() == markdown(replace(BILLION, cores=16, decode_fps=450.0))
