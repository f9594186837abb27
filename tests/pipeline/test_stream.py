"""The stages as Ray Data runs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.ledger import open_ledger
from jobs.pipeline.commit import Predictions
from jobs.pipeline.sources import EncodedImage, Shard, Survey
from jobs.pipeline.stream import classify, read
from jobs.placement import Placement
from jobs.session import ray_session
from tests.conftest import RayCluster
from tests.pipeline.corpus import jpeg
from vit_actor.preprocess import Preprocess
from vit_actor.simulated import SimulatedTiming, SimulatedVit

PIXELS = Preprocess(32, 32, 2, scale=(1 / 127.5,) * 3, shift=(-1.0,) * 3)


@dataclass(frozen=True)
class SignedImages:
    """A source of four shards of two images, whose ids say which process read them."""

    def survey(self) -> Survey:
        return Survey(8, False, "")

    def roots(self) -> list[str]:
        return [""]

    def shards(self, root: str) -> Iterator[Shard]:
        return (Shard(f"{number}", {}) for number in range(4))

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        return ((i, EncodedImage(f"{shard.id}/{i}/{os.getpid()}", None, jpeg(i))) for i in range(2))


def open_device() -> SimulatedVit:
    return SimulatedVit(SimulatedTiming(compute=0.001, compile=0.0))


def test_reading_stays_out_of_the_actors_even_where_both_ask_ray_for_the_same(
    ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ray_cluster.environment.items():
        monkeypatch.setenv(name, value)
    placement = Placement("simulated", actors=1, cpus=0.5, boards=0, decode_cpus=0.5)
    predictions = Predictions(str(tmp_path))
    with ray_session(ray_cluster.address):
        ledger = open_ledger(str(tmp_path))
        chunks = read(
            SignedImages(), preprocess=PIXELS, predictions=predictions, placement=placement, ledger=ledger, resume=False
        )
        identity = {"run_id": "run", "attempt": 1, "versions": {}}
        committed = classify(
            chunks, open_device, predictions, placement=placement, identity=identity, ledger=ledger, limit_seconds=60
        )
        assert sum(table["images"][0].as_py() for table in committed) == 8
    rows = pq.read_table(tmp_path / "predictions", columns=["image_id", "mesh"]).to_pylist()
    readers = {row["image_id"].rpartition("/")[2] for row in rows}
    actors = {row["mesh"].rpartition("-")[2] for row in rows}  # host/cpu-<process>: these meshes have no boards
    assert len(rows) == 8
    assert len(actors) == 1
    assert not readers & actors
