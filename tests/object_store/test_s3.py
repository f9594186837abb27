"""Whole commands against an S3 server: data in, predictions out, and everything that goes wrong with a bucket."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.commit import Predictions, committed_files
from jobs.running import output_lock
from jobs.running.output_lock import hold_output
from tests.commands import ROOT, Finished, run_module
from tests.faults.running import MODEL, write_shards
from tests.jobs.prediction_files import row, table
from tests.object_store.server import Store, s3_server
from vit_actor.errors import UserError

DATA = "s3://bucket/data set/größe"
"""A space and letters beyond ASCII, as people type them."""
SHARDS, IMAGES = 6, 64


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = write_shards(tmp_path_factory.mktemp("s3") / "data", SHARDS, IMAGES)
    with s3_server() as store:
        for file in folder.iterdir():
            store.client.upload_file(str(file), "bucket", f"data set/größe/{file.name}")
        yield store


@pytest.fixture
def here(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """This process uses the server too."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


def imagenet(store: Store, out: str, *arguments: str, data: str = DATA, timing: str = "compute=1ms") -> Finished:
    return run_module(*command(out, *arguments, data=data, timing=timing), environment=os.environ | store.environment)


def command(out: str, *arguments: str, data: str = DATA, timing: str = "compute=1ms") -> list[str]:
    device = ["--model", str(MODEL), "--device", "simulated", "--simulate", timing]
    return ["jobs.imagenet", "--data", data, "--out", out, *device, *arguments]


def answers(store: Store, prefix: str) -> dict[str, int]:
    found = {}
    for key in filter(lambda key: key.endswith(".parquet"), store.keys(f"{prefix}/predictions/")):
        body = store.client.get_object(Bucket="bucket", Key=key)["Body"].read()
        for each in pq.read_table(io.BytesIO(body), columns=["image_id", "prediction"]).to_pylist():
            assert each["image_id"] not in found, "an image has two rows"
            found[each["image_id"]] = each["prediction"]
    return found


def error(done: Finished) -> str:
    assert "Traceback" not in done.output, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


@pytest.mark.slow
def test_a_store_that_is_slow_and_answers_503_to_one_request_in_ten_costs_no_row(store: Store) -> None:
    store.unavailable, store.delay, store.refused = 10, 0.02, 0
    try:
        done = imagenet(store, "s3://bucket/runs/unavailable")
    finally:
        store.unavailable, store.delay = 0, 0.0
    assert done.code == 0, done.output
    assert store.refused > 3
    assert len(answers(store, "runs/unavailable")) == SHARDS * IMAGES


@pytest.mark.parametrize(
    ("out", "data", "complaint"),
    [
        ("s3://nowhere/run", DATA, "s3://nowhere/run: no such bucket; create it, or check the name"),
        ("s3://bucket/run", "s3://nowhere/data", "s3://nowhere/data: no such"),
        ("s3://bucket/run", "s3://bucket/nothing-there", "nothing-there"),
    ],
    ids=["no bucket for results", "no bucket of data", "no data"],
)
def test_a_bucket_that_is_not_there_is_told_in_a_line_before_ray_starts(
    store: Store, out: str, data: str, complaint: str
) -> None:
    done = imagenet(store, out, data=data)
    assert done.code == 2, done.output
    assert complaint in error(done)


def test_refused_credentials_are_told_as_such(store: Store) -> None:
    store.refusing = True
    try:
        done = imagenet(store, "s3://bucket/runs/refused", data=str(ROOT / "jobs" / "sample" / "images"))
    finally:
        store.refusing = False
    assert done.code == 2, done.output
    assert "access denied" in error(done) or "refuses these credentials" in error(done)


def test_more_files_than_a_page_of_a_listing_has_are_all_there(here: Store) -> None:
    rows = table([row(1, 1, image_id="a.jpeg")])
    Predictions("s3://bucket/many").commit("chunk-0", rows, {})
    body = here.client.get_object(Bucket="bucket", Key="many/predictions/chunk-0.parquet")["Body"].read()
    for number in range(1, 1100):
        here.put(f"many/predictions/chunk-{number}.parquet", body)
    assert committed_files("s3://bucket/many") == [1100, 1100 * len(body)]


def test_an_object_larger_than_one_part_of_an_upload_arrives_whole(here: Store, tmp_path: Path) -> None:
    big = pa.table({"x": pa.array([os.urandom(1 << 20) for _ in range(24)])})  # uploads go in parts of 10 MB
    from jobs.storage.files import open_storage, write_table

    filesystem, path = open_storage("s3://bucket/big/file.parquet")
    write_table(filesystem, path, big)
    assert pq.read_table(path, filesystem=filesystem).equals(big)


def test_a_lease_is_refused_while_it_is_renewed_and_taken_when_it_is_not(here: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "RENEW_SECONDS", 1.0)
    monkeypatch.setattr(output_lock, "STALE_SECONDS", 6.0)
    monkeypatch.setattr(output_lock, "_held", {})
    hold_output("s3://bucket/leased")
    lease: Any = output_lock._held.pop("bucket/leased")
    with pytest.raises(UserError, match="another job is writing there now"):
        hold_output("s3://bucket/leased")
    lease._ended.set()  # as if its process were killed
    hold_output("s3://bucket/leased")
    lease = output_lock._held["bucket/leased"]
    lease._give_back()
    assert not any(".lease" in key for key in here.keys("leased"))


def test_a_holder_that_finds_its_lease_taken_over_stops(here: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[str, int]] = []
    monkeypatch.setattr(output_lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(output_lock, "_held", {})
    monkeypatch.setattr(output_lock, "end_at_once", lambda line, code: ended.append((line, code)))
    hold_output("s3://bucket/taken")
    here.client.put_object(Bucket="bucket", Key="taken/.lease", Body=b"another host's")
    limit = time.monotonic() + 30
    while not ended and time.monotonic() < limit:
        time.sleep(0.05)
    ((line, code),) = ended
    assert code == 1
    assert line.startswith("error: --out s3://bucket/taken: another job has taken it over")
    assert here.client.get_object(Bucket="bucket", Key="taken/.lease")["Body"].read() == b"another host's"
