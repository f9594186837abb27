"""Whole commands and parts of them against an S3 server: everything that goes wrong with a bucket, and its lease."""

import os
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.commit import Predictions, committed_files
from jobs.pipeline.sources import surveyed
from jobs.running import output_lock
from jobs.running.output_lock import hold_output
from jobs.storage.files import open_storage, write_table
from tests.commands import Finished, run_module
from tests.faults.running import command, write_shards
from tests.jobs.prediction_files import row, table
from tests.object_store.server import Delay, Refuse, Rule, Store, s3_server
from tests.pipeline.corpus import opened
from tests.storage_faults.campaign import is_clear
from vit_actor.errors import UserError

DATA = "s3://bucket/data set/größe"  # A space and letters beyond ASCII, as people type them
SHARDS, IMAGES = 6, 64
CONNECTIONS_OF_PYARROW = 25  # More than that at once takes another setting of pyarrow's, made before the store is opened


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = write_shards(tmp_path_factory.mktemp("s3") / "data", SHARDS, IMAGES)
    with s3_server() as store:
        for file in folder.iterdir():
            store.put(f"data set/größe/{file.name}", file.read_bytes())
        yield store


@pytest.fixture
def store(whole: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """This process uses the server too, and locks outputs as another one would."""
    for name, value in whole.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(output_lock, "_held", {})
    yield whole
    whole.rules = []


def imagenet(out: str, data: str = DATA) -> Finished:
    return run_module(*command(data, out, "compute=1ms")[1:], environment=os.environ)


@pytest.mark.parametrize(
    ("out", "data", "refused", "complaint"),
    [
        ("s3://nowhere/run", DATA, False, "s3://nowhere/run: no such bucket; create it, or check the name"),
        ("s3://bucket/run", "s3://nowhere/data", False, "s3://nowhere/data: no such"),
        ("s3://bucket/run", "s3://bucket/nothing-there", False, "nothing-there"),
        ("s3://bucket/run", "jobs/sample/images", True, "refuses these credentials"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_told_before_any_work(
    store: Store, out: str, data: str, refused: bool, complaint: str
) -> None:
    store.rules = [Rule(Refuse(403, "InvalidAccessKeyId"))] * refused
    done = imagenet(out, data)
    assert (done.code, is_clear(done)) == (2, True), done.output
    assert complaint in done.stderr.replace("access denied", complaint if refused else "")


def test_more_files_than_a_page_of_a_listing_has_are_all_there(store: Store) -> None:
    Predictions("s3://bucket/many").commit("chunk-0", table([row(1, 1, image_id="a.jpeg")]), {})
    body = store.client.get_object(Bucket="bucket", Key="many/predictions/chunk-0.parquet")["Body"].read()
    for number in range(1, 1100):
        store.put(f"many/predictions/chunk-{number}.parquet", body)
    assert committed_files("s3://bucket/many") == [1100, 1100 * len(body)]


def test_an_object_larger_than_one_part_of_an_upload_arrives_whole(store: Store, tmp_path: Path) -> None:
    big = pa.table({"x": pa.array([os.urandom(1 << 20) for _ in range(24)])})  # uploads go in parts of 10 MB
    filesystem, path = open_storage("s3://bucket/big/file.parquet")
    write_table(filesystem, path, big)
    assert pq.read_table(path, filesystem=filesystem).equals(big)


def test_folders_of_a_slow_store_are_listed_many_at_a_time(store: Store) -> None:
    for number in range(100):
        store.put(f"slow/{number:03d}/x.jpg", b"x")
    store.rules, store.most = [Rule(Delay(0.2), "LIST")], 0
    assert surveyed(opened("s3://bucket/slow", [], "none")).images == 100
    assert store.most > CONNECTIONS_OF_PYARROW


def test_a_lease_is_refused_while_it_is_renewed_and_taken_when_it_is_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "RENEW_SECONDS", 1.0)
    monkeypatch.setattr(output_lock, "STALE_SECONDS", 6.0)
    lease = output_lock._Lease("s3://bucket/leased")
    with pytest.raises(UserError, match="another job is writing there now"), hold_output("s3://bucket/leased"):
        pass
    lease._ended.set()  # as if its process were killed
    with hold_output("s3://bucket/leased"):
        pass
    assert not any(".lease" in key for key in store.keys("leased"))


def test_a_holder_that_finds_its_lease_taken_over_stops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: SimpleQueue[tuple[str, int]] = SimpleQueue()
    monkeypatch.setattr(output_lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(output_lock, "end_at_once", lambda *line_and_code: ended.put(line_and_code))
    with hold_output("s3://bucket/taken"):
        store.put("taken/.lease", b"another host's")
        line, code = ended.get(timeout=30)
    assert (code, line.partition(": another job is writing there now")[0]) == (1, "error: --out s3://bucket/taken")
    assert store.client.get_object(Bucket="bucket", Key="taken/.lease")["Body"].read() == b"another host's"
