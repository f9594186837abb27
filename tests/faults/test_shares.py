"""A job of several streams: the same rows as one stream's, and a stream's process that dies costs none."""

from pathlib import Path
from typing import Any

import pytest

from jobs.pipeline.placement import Placement
from jobs.pipeline.plan import Plan
from jobs.pipeline.shares import shares
from jobs.pipeline.sources import surveyed, unpacked
from tests.faults.running import Case, committed, footers, footers_in, lose_chunks, prediction_files
from tests.pipeline.corpus import opened


@pytest.mark.slow
def test_two_streams_answer_as_one_does_on_both_meshes_and_one_that_has_finished_gives_its_mesh_to_the_other(case: Case) -> None:
    case.check_right(case.run("compute=50ms", "--streams=2"))
    assert (case.summary["meshes"], case.summary["retries"]) == (2, 0)

    lose_chunks(case.out, 0)
    lost = {shard.id for shard in list(opened(case.data, [], "none").shards())[1::2]}
    for file in prediction_files(case.out):
        if footers_in(file)[0]["chunk"].rpartition(".")[0] in lost:
            file.unlink()
    before = set(committed(case.out))
    assert len(before) == 12
    case.check_right(case.run("compute=1s", "--streams=2", "--resume"))
    assert len({footer["mesh"] for footer in footers(case.out) if footer["chunk"] not in before}) == 2


def test_a_streams_process_that_is_killed_is_started_again_and_nothing_is_lost(case: Case) -> None:
    job = case.start("compute=300ms", "--streams=2")
    job.wait_for_commits(4)
    case.kill_one("ShareProcess")
    done = job.end()
    case.check_right(done)
    assert "(raylet)" not in done.output


@pytest.mark.parametrize("of", [1, 2, 3, 16])
def test_shares_are_disjoint_and_complete_and_as_large_as_each_other(tmp_path: Path, of: int) -> None:
    for number in range(1300):
        (tmp_path / f"{number:04d}.jpg").touch()
    source = opened(tmp_path, [], "none", images_per_shard=30)
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
