"""A job of several streams: the same rows as one stream's, and a stream's process that dies costs none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.pipeline.placement import Placement
from jobs.pipeline.plan import Plan
from jobs.pipeline.shares import shares
from jobs.pipeline.sources import open_source, surveyed, unpacked
from tests.conftest import RayCluster
from tests.faults.running import (
    Answers,
    Job,
    answers,
    committed,
    footers,
    footers_in,
    kill_one,
    lose_chunks,
    prediction_files,
    run,
    summary,
)


@pytest.mark.slow
def test_two_streams_answer_as_one_does_on_both_meshes_and_one_that_has_finished_gives_its_mesh_to_the_other(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    done = run(meshes, data, tmp_path, "compute=50ms", "--streams=2")
    assert done.code == 0, done.output
    assert answers(tmp_path) == undisturbed
    assert (summary(tmp_path)["meshes"], summary(tmp_path)["retries"]) == (2, 0)

    lose_chunks(tmp_path, 0)
    lost = {shard.id for shard in list(open_source(str(data), checkpoint_classes=[], labels="none").shards())[1::2]}
    for file in prediction_files(tmp_path):
        if footers_in(file)[0]["chunk"].rpartition(".")[0] in lost:
            file.unlink()
    before = set(committed(tmp_path))
    assert len(before) == 12
    done = run(meshes, data, tmp_path, "compute=1s", "--streams=2", "--resume")
    assert done.code == 0, done.output
    assert answers(tmp_path) == undisturbed
    assert len({footer["mesh"] for footer in footers(tmp_path) if footer["chunk"] not in before}) == 2


def test_a_streams_process_that_is_killed_is_started_again_and_nothing_is_lost(
    meshes: RayCluster, data: Path, undisturbed: Answers, tmp_path: Path
) -> None:
    job = Job.start(meshes, data, tmp_path, "compute=300ms", "--streams=2")
    job.wait_for_commits(4)
    kill_one(meshes.environment["HOME"], "ShareProcess")
    done = job.end()
    assert done.code == 0, done.output
    assert "(raylet)" not in done.output
    assert answers(tmp_path) == undisturbed


@pytest.mark.parametrize("of", [1, 2, 3, 16])
def test_shares_are_disjoint_and_complete_and_as_large_as_each_other(tmp_path: Path, of: int) -> None:
    for number in range(1300):
        (tmp_path / f"{number:04d}.jpg").touch()
    source = open_source(str(tmp_path), checkpoint_classes=[], labels="none", images_per_shard=30)
    placement = Placement("simulated", actors=of, cpus=0.5, boards=4, decode_cpus=0.5)
    nothing: dict[str, Any] = dict.fromkeys(("shards", "preprocess", "open_device", "ledger"))
    whole = Plan(source=source, placement=placement, out="", identity={}, limit_seconds=1.0, **nothing)
    packed = surveyed(source).shards
    found = [
        [shard for number, together in enumerate(packed) for shard, _, _ in unpacked(together, number, plan.share)]
        for plan in shares(whole, [None] * of)
    ]
    everything = [shard.id for shard in source.shards()]
    assert len(everything) == 44
    assert sorted(shard for share in found for shard in share) == sorted(everything)
    assert max(map(len, found)) - min(map(len, found)) <= 1
