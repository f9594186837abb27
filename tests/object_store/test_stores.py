"""Whole commands against a server of each kind of object store: data in, predictions out, and no secret shown on the way."""

import io
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from jobs.storage.files import write_atomically
from tests.commands import Command, Finished, begin, run_module
from tests.faults.running import command, write_shards
from tests.object_store.buckets import STORES, Bucket
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

DATA = "data set/größe"  # A space and letters beyond ASCII, as people type them
SHARDS, IMAGES = 6, 64


@pytest.fixture(scope="module", params=list(STORES))
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    folder = write_shards(tmp_path_factory.mktemp("bucket") / "data", SHARDS, IMAGES)
    with STORES[request.param]() as bucket:
        filesystem, path = bucket.open(DATA)
        for file in folder.iterdir():
            write_atomically(filesystem, f"{path}/{file.name}", file.read_bytes())
        yield bucket


def start(bucket: Bucket, out: str, *arguments: str, timing: str = "compute=1ms", into: Bucket | None = None) -> Command:
    line = command(bucket.uri(DATA), (into or bucket).uri(out), timing, *arguments)[1:]
    return begin(*line, environment=os.environ | bucket.environment)


def imagenet(bucket: Bucket, out: str, *arguments: str) -> Finished:
    return checked(bucket, start(bucket, out, *arguments).end(200))


def report(bucket: Bucket, *arguments: str) -> Finished:
    return checked(bucket, run_module("jobs.report", *arguments, environment=os.environ | bucket.environment))


def checked(bucket: Bucket, done: Finished) -> Finished:
    assert "Traceback" not in done.output, done.output
    assert not bucket.secret or bucket.secret not in done.output, done.output
    return done


def answers(bucket: Bucket, out: str) -> dict[str, int]:
    found = {}
    for name in filter(lambda name: name.endswith(".parquet"), bucket.names(f"{out}/predictions")):
        file = io.BytesIO(bucket.read(f"{out}/predictions/{name}"))
        for each in pq.read_table(file, columns=["image_id", "prediction"]).to_pylist():
            assert each["image_id"] not in found, "an image has two rows"
            found[each["image_id"]] = each["prediction"]
    return found


def test_a_run_from_a_bucket_into_a_bucket_is_reported_compared_and_finished(bucket: Bucket) -> None:
    imagenet(bucket, "runs/one").succeeded()
    assert len(answers(bucket, "runs/one")) == SHARDS * IMAGES
    assert [name for name in bucket.names("runs/one/predictions") if name.endswith(".parquet")] == ["part-000000.parquet"]
    again = imagenet(bucket, "runs/one", "--resume")
    assert (again.code, "nothing to do" in again.stdout) == (0, True), again.output
    taken = imagenet(bucket, "runs/one")
    assert (taken.code, "already holds run" in taken.stderr) == (2, True), taken.output
    imagenet(bucket, "runs/one", "--overwrite", "--limit=100").succeeded()
    assert len(answers(bucket, "runs/one")) == 100

    of_one = report(bucket, "--out", bucket.uri("runs/one"))
    assert (of_one.code, "100 of 100" in of_one.stdout) == (0, True), of_one.output
    imagenet(bucket, "runs/two").succeeded()
    compared = report(bucket, "--compare", bucket.uri("runs/one"), bucket.uri("runs/two"))
    assert (compared.code, "0 of 100 differ" in compared.stdout) == (0, True), compared.output
    names = bucket.names("runs")
    assert any(name.startswith("two/compared/") and name.endswith("comparison.html") for name in names)
    assert not any(".lease" in name for name in names)
    if bucket.secret:
        assert not [name for name in names if bucket.secret.encode() in bucket.read(f"runs/{name}")]


def test_what_a_killed_driver_committed_stays_and_a_second_run_waits_for_its_lease(bucket: Bucket) -> None:
    job = start(bucket, "runs/killed", timing="compute=1500ms")
    wait_until(lambda: any(name.endswith(".parquet") for name in bucket.names("runs/killed/predictions")))
    second = imagenet(bucket, "runs/killed", "--resume")
    assert (second.code, "another job is writing there now" in second.stderr) == (2, True), second.output
    job.send_signal(signal.SIGKILL)
    job.end(60)
    before = answers(bucket, "runs/killed")
    assert 0 < len(before) < SHARDS * IMAGES
    imagenet(bucket, "runs/killed", "--resume").succeeded()
    after = answers(bucket, "runs/killed")
    assert len(after) == SHARDS * IMAGES
    assert before.items() <= after.items()


def test_a_bucket_that_is_not_there_is_one_line_before_ray_starts(bucket: Bucket) -> None:
    nowhere = replace(bucket, root=bucket.root.replace("bucket", "nowhere"))
    for data, out in ((bucket, nowhere), (nowhere, bucket)):
        done = checked(bucket, start(data, "runs/none", into=out).end(200))
        assert (done.code, len(done.stderr.splitlines())) == (2, 1), done.output
        assert "nowhere" in done.stderr
        assert re.search("no such (bucket|container|file)", done.stderr)
