"""The stages as Ray Data runs them."""

import io
import os
import re
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from ray.data import DataContext

from jobs.pipeline import stages
from jobs.pipeline.chunk import Chunk
from jobs.pipeline.classify import NO_ANSWER, NO_ANSWER_TO_ANY, prediction_rows
from jobs.pipeline.placement import Placement
from jobs.pipeline.plan import Plan
from jobs.pipeline.sources import EncodedImage, Shard, Survey, surveyed
from jobs.pipeline.stages import committed, configure, decoded, on_meshes
from jobs.running.ledgers import open_ledger
from jobs.running.session import ray_session
from tests.conftest import RayCluster
from tests.pipeline.corpus import jpeg
from vit_actor.actor import Part
from vit_actor.device import NO_CLASS
from vit_actor.preprocess import Preprocess
from vit_actor.simulated import SimulatedTiming, SimulatedVit

PLACEMENT = Placement("simulated", actors=1, cpus=0.5, boards=0, decode_cpus=0.5)
PIXELS = Preprocess(32, 32, 2, scale=(1 / 127.5,) * 3, shift=(-1.0,) * 3)


@dataclass(frozen=True)
class SignedImages:
    """A source of four shards of two images, whose ids say which process read them.

    readable: shards that may be read; reading another fails the run. counted: whether shards say how many images they have.
    """

    readable: frozenset[str] = frozenset("0123")
    counted: bool = True
    folder: str = "/nowhere"

    def shards(self) -> Generator[Shard, None, Survey]:
        yield from (Shard(f"{number}", {}, 2 if self.counted else None) for number in range(4))
        return Survey(8, False)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        if shard.id not in self.readable:
            raise AssertionError(f"shard {shard.id} was read")
        return ((i, EncodedImage(f"{shard.id}/{i}/{os.getpid()}", None, jpeg(i))) for i in range(2) if wanted(i))


@dataclass(frozen=True)
class DeadlyShard(SignedImages):
    """The same, but reading the second image of shard 2 ends the process, as a file does that takes all memory."""

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        for ordinal, image in super().read(shard, wanted):
            if (shard.id, ordinal) == ("2", 1):
                os.kill(os.getpid(), signal.SIGKILL)
            yield ordinal, image


def open_device() -> SimulatedVit:
    return SimulatedVit(SimulatedTiming(compute=0.001, compile=0.0))


def run(cluster: RayCluster, source: SignedImages, out: Path, *, resume: bool = False, **more: Any) -> tuple[int, int]:
    """The stages over a source: how many images were classified, and how many an earlier run had committed."""
    with ray_session(cluster.address):
        ledger = open_ledger(f"{out}-{resume}-{len(more)}")  # of its own: the one before may still be there
        images = sum(chunk["images"] for chunk in committed(plan_of(source, out, ledger, resume=resume, **more)))
        return images, ray.get(ledger.account.remote())["committed_before"]


def plan_of(source: SignedImages, out: Path, ledger: Any, opens: Callable[[], SimulatedVit] = open_device, **more: Any) -> Plan:
    return Plan(
        source=source,
        shards=ray.put(surveyed(source).shards),
        preprocess=PIXELS,
        open_device=opens,
        placement=PLACEMENT,
        out=str(out),
        ledger=ledger,
        identity={"run_id": "run", "attempt": 1, "versions": {}},
        limit_seconds=60,
        **more,
    )


@pytest.fixture
def cluster(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    for name, value in ray_cluster.environment.items():
        monkeypatch.setenv(name, value)
    return ray_cluster


def test_reading_stays_out_of_the_actors_even_where_both_ask_ray_for_the_same(cluster: RayCluster, tmp_path: Path) -> None:
    assert run(cluster, SignedImages(), tmp_path) == (8, 0)
    rows = pq.read_table(tmp_path / "predictions", columns=["image_id", "mesh"]).to_pylist()
    readers = {row["image_id"].rpartition("/")[2] for row in rows}
    actors = {row["mesh"].rpartition("-")[2] for row in rows}  # host/cpu-<number>: these meshes have no boards
    assert len(rows) == 8
    assert len(actors) == 1
    assert not readers & actors


def test_the_image_a_device_died_of_is_an_error_and_the_other_of_its_chunk_is_answered(
    cluster: RayCluster, tmp_path: Path
) -> None:
    with ray_session(cluster.address):
        ledger = open_ledger(f"{tmp_path}-deadly")
        for died_with in (None, None, (0, 2), (1, 2), (1, 2), None):  # twice as a whole, in a batch, twice alone
            ray.get(ledger.begin.remote("2.00000", 2, 64, "another/0-3"))
            if died_with:
                ray.get(ledger.trying.remote("2.00000", died_with))
        assert sum(chunk["errors"] for chunk in committed(plan_of(SignedImages(), tmp_path, ledger))) == 1
        assert ray.get(ledger.account.remote())["given_up"] == 1
    rows = pq.read_table(tmp_path / "predictions", columns=["image_id", "error"]).to_pylist()
    assert [row["image_id"][:3] for row in rows if row["error"]] == ["2/1"]
    assert {row["error"] for row in rows} == {None, "the device fails on this image"}


def test_each_stage_is_an_operator_of_its_own_in_the_plan_that_ray_prints(cluster: RayCluster, tmp_path: Path) -> None:
    with ray_session(cluster.address):
        plan = plan_of(SignedImages(), tmp_path, open_ledger(f"{tmp_path}-plan"))
        with redirect_stdout(io.StringIO()) as told:
            on_meshes(decoded(plan), plan).explain()
    physical = told.getvalue().rpartition("Physical Plan (Optimized)")[2]
    found = re.findall(r"(\w+)\[MapBatches\((\w+)\)\]", physical)
    assert found == [
        ("ActorPoolMapOperator", "Classifier"), ("TaskPoolMapOperator", "read_chunks"), ("TaskPoolMapOperator", "list_shards"),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_may_rest_longer_than_ray_data_allows(cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 1)  # its own are half an hour
    with ray_session(cluster.address):
        plan = plan_of(SignedImages(), tmp_path, open_ledger(f"{tmp_path}-slow"), wait=partial(time.sleep, 4))
        assert sum(chunk["images"] for chunk in committed(plan)) == 8


def test_a_setting_that_ray_data_does_not_have_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (stages.SETTINGS, stages.POOL_SETTINGS):
        with monkeypatch.context() as patched:
            patched.setitem(table, "misspelt", 1)
            with pytest.raises(AttributeError, match="misspelt"):
                configure(PLACEMENT)
    configure(replace(PLACEMENT, actors=3))
    assert DataContext.get_current().max_consecutive_actor_init_deaths == 6


@pytest.mark.parametrize("counted", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_resume_decodes_only_what_is_not_committed_and_reads_no_shard_of_known_size_that_is(
    cluster: RayCluster, tmp_path: Path, counted: bool
) -> None:
    run(cluster, SignedImages(counted=counted), tmp_path)
    (tmp_path / "predictions" / "2.00000.parquet").unlink()
    left = SignedImages(frozenset("2"), counted) if counted else SignedImages(counted=False)
    assert run(cluster, left, tmp_path, resume=True) == (2, 6)
    assert pq.read_table(tmp_path / "predictions").num_rows == 8
    doubtful = frozenset({"3.00000"})  # its file is there, and no other shard is read
    assert run(cluster, SignedImages(frozenset("3"), counted), tmp_path, resume=True, doubtful=doubtful) == (2, 0)
    assert pq.read_table(tmp_path / "predictions").num_rows == 8


@pytest.mark.parametrize("counted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_shard_that_ends_whatever_reads_it_costs_the_rows_it_could_not_give(
    cluster: RayCluster, tmp_path: Path, counted: bool
) -> None:
    assert run(cluster, DeadlyShard(counted=counted), tmp_path) == (8, 0)
    rows = pq.read_table(tmp_path / "predictions").to_pylist()
    errors = {row["image_id"]: row["error"] for row in rows if row["error"]}
    assert errors == {"2#1": "cannot be read: reading it ends its process, for want of memory perhaps"}


def test_an_answer_that_is_no_number_is_an_error_and_one_of_a_whole_batch_points_at_the_device() -> None:
    def part(number: int, *classes: int) -> Part:
        answers = np.array([[c, c] for c in classes], np.int32)
        probabilities = np.full(answers.shape, 0.5, np.float32)
        return Part(answers, probabilities, 1.0, 0.25, number=number, first=0, images=len(classes))

    pixels = np.zeros((5, 32, 32, 3), np.uint8)
    chunk = Chunk("c", list("abcdef"), [0, 1, 2, 3, 4, 5], [None, "damaged", None, None, None, None], pixels)
    rows = prediction_rows(chunk, [part(0, 7, NO_CLASS, 9), part(1, NO_CLASS, NO_CLASS)], host="h", mesh="m", run_id="r")
    found = rows.select(["image_id", "prediction", "error", "batch", "correct"]).to_pylist()
    assert [row["prediction"] for row in found] == [7, None, None, 9, None, None]
    assert [row["batch"] for row in found] == [0, None, None, 0, None, None]
    assert [row["error"] for row in found] == [None, "damaged", NO_ANSWER, None, NO_ANSWER_TO_ANY, NO_ANSWER_TO_ANY]
    assert not any(row["correct"] for row in found)
