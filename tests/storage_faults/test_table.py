"""What storage does on a bad day, and what a job must do then: no row lost, doubled or wrong, and no storage error as a row."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.commands import Finished
from tests.object_store import server
from tests.object_store.server import Answer, Cut, Request, Rule, Truncate, Zeros
from tests.pipeline.corpus import opened, plain_parquet, read_all
from tests.storage_faults import preload
from tests.storage_faults.campaign import is_clear
from tests.storage_faults.faulty import FaultyStorage, faulty_storage
from tests.storage_faults.layouts import digits

slow = partial(pytest.param, marks=pytest.mark.slow)

ALL = "--max-errors=10%"  # The data sets have four damaged images in 134


@pytest.fixture(scope="module")
def whole() -> Iterator[FaultyStorage]:
    with faulty_storage() as storage:
        yield storage


@pytest.fixture
def storage(whole: FaultyStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStorage]:
    """Without rules, in this process's environment too."""
    for name, value in whole.store.environment.items():
        monkeypatch.setenv(name, value)
    yield whole
    whole.store.rules = []
    whole.local.set()


@pytest.fixture
def out(request: pytest.FixtureRequest, whole: FaultyStorage) -> str:
    """A bucket's output of the test's own."""
    return f"s3://bucket/runs/{abs(hash(request.node.nodeid))}"


def check_told(done: Finished, *patterns: str, code: int = 1) -> None:
    """That a job failed with one line that has all these, in capitals or small letters."""
    assert done.code == code, done.output
    assert is_clear(done), done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert [pattern for pattern in patterns if not re.search(pattern, line, re.IGNORECASE)] == [], line


def check_right(storage: FaultyStorage, out: str, layout: str) -> None:
    """That an output has an undisturbed job's rows, each once."""
    assert storage.rows(out) - storage.undisturbed(layout) == storage.undisturbed(layout) - storage.rows(out) == {}


def right(storage: FaultyStorage, data: str, out: str, layout: str, *arguments: str) -> Finished:
    """A job that ends so."""
    done = storage.job(data, out, ALL, *arguments).succeeded()
    check_right(storage, out, layout)
    return done


def check_resumed(storage: FaultyStorage, data: str, out: str, layout: str) -> None:
    """That what is committed is right, and that a resume on healed storage completes it."""
    assert storage.rows(out) - storage.undisturbed(layout) == {}, "a storage error was committed"
    storage.store.rules = []
    storage.local.set()
    right(storage, data, out, layout, "--resume")


@pytest.mark.parametrize(
    ("layout", "rule"),
    [
        ("tar", Rule(Cut(0.5), "GET", "data/tar/shard-1*", skip=3, times=1)),
        slow("tar.gz", Rule(Cut(0.9, reset=True), "GET", "data/tar.gz/shard-1*", skip=3, times=1)),
        slow("tar", Rule(Truncate(0.5), "GET", "data/tar/shard-2*", skip=1, times=1)),
        slow("folders", Rule(Zeros(), "GET", "*/digit-1297.jpeg", times=1)),
        ("tar", preload.Rule("READ", "*/tar/shard-1.tar", "ZEROS", skip=1, times=1)),
        slow("tar", preload.Rule("READ", "*/tar/shard-1.tar", "END", skip=1, times=1)),
        slow("parquet", preload.Rule("READ", "*/shard-1.parquet", skip=1, times=1)),
        ("folders", preload.Rule("OPEN", "*/digit-1297.jpeg", error=errno.ESTALE, times=1)),
        slow("arrow", preload.Rule("MAP", "*/data-00001*", error=errno.ENODEV, times=1)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.operation} {getattr(value, 'error', '')} {value.act}",
)
def test_what_fails_once_costs_no_row_and_no_resume(
    storage: FaultyStorage, tmp_path: Path, layout: str, rule: Rule | preload.Rule
) -> None:
    if isinstance(rule, Rule):
        data = f"s3://bucket/data/{layout}"
        storage.store.rules = [rule]
    else:
        data = str(storage.work / "data" / layout)
        storage.local.set(rule)
    right(storage, data, str(tmp_path / "out"), layout)
    assert storage.store.done + sum(storage.local.done()) > 0, "the fault did not come"


@pytest.mark.parametrize(
    ("layout", "rule", "patterns"),
    [
        ("folders", Rule(server.EXPIRED, "GET", "data/*", skip=60), ("expired", "data/folders")),
        slow("folders", Rule(server.DENIED, "GET|HEAD", "data/*", skip=120), ("denied|permission", "data/folders")),
        ("folders", Rule(server.SLOW_DOWN, "*", "*", skip=150), ("slow|503|reduce|less often",)),
        slow("parquet", Rule(Cut(), "GET", "data/parquet/shard-2*", skip=2), ("shard-2.parquet",)),
        slow("tar", Rule(server.ARCHIVED, "GET", "*/shard-1.tar"), ("storage class|InvalidObjectState|archive", "shard-1.tar")),
        slow("tar", Rule(server.GONE, "GET|HEAD", "*/shard-1.tar"), ("shard-1.tar",)),
    ],
    ids=lambda value: f"{value.operation} {value.key} {value.act}" if isinstance(value, Rule) else "",
)
def test_what_fails_for_good_ends_the_run_in_a_line_and_a_resume_completes_it(
    storage: FaultyStorage, tmp_path: Path, layout: str, rule: Rule, patterns: tuple[str, ...]
) -> None:
    data, out = f"s3://bucket/data/{layout}", str(tmp_path / "out")
    storage.store.rules = [rule]
    check_told(storage.job(data, out, ALL), *patterns)
    check_resumed(storage, data, out, layout)


def test_an_image_that_is_refused_among_others_is_a_row_which_a_resume_reads_again(
    storage: FaultyStorage, tmp_path: Path
) -> None:
    data, out = "s3://bucket/data/folders", str(tmp_path / "out")
    storage.store.rules = [Rule(server.ARCHIVED, "GET", "*/digit-1297.jpeg")]
    storage.job(data, out, ALL).succeeded()
    (refused,) = storage.rows(out) - storage.undisturbed("folders")
    assert refused[0].endswith("digit-1297.jpeg")
    assert re.search("storage class|InvalidObjectState|archive", str(refused[3]))
    storage.store.rules = []
    right(storage, data, out, "folders", "--resume")


def test_with_a_limit_no_other_image_fills_in_for_what_is_refused(storage: FaultyStorage, tmp_path: Path) -> None:
    data, out = "s3://bucket/data/tar", str(tmp_path / "out")
    storage.store.rules = [Rule(server.DENIED, "GET", "*/shard-0.tar")]
    done = storage.job(data, out, ALL, "--limit", "50")
    assert done.code in (1, 2), done.output
    assert is_clear(done, "shard-0.tar"), done.output
    assert storage.rows(out) - storage.undisturbed("tar") == {}


# What may be written


@pytest.mark.parametrize("skip", [pytest.param(0, id="at once"), pytest.param(1, id="renewal", marks=pytest.mark.slow)])
def test_a_lease_that_cannot_be_written_ends_the_run_in_a_line(storage: FaultyStorage, out: str, skip: int) -> None:
    slow = Rule(server.Delay(1.5 * skip), "GET", "data/folders/*")  # else it would have ended before
    storage.store.rules = [Rule(server.DENIED, "PUT|COPY", "*.lease*", skip=skip), slow]
    done = storage.job("s3://bucket/data/folders", out, ALL)
    check_told(done, "lease", code=1 if skip else 2)
    if skip:
        check_resumed(storage, "s3://bucket/data/folders", out, "folders")
    else:
        assert storage.rows(out) == {}


def test_where_deleting_is_refused_each_image_is_there_once_and_the_refusal_is_told(storage: FaultyStorage, out: str) -> None:
    storage.store.rules = [Rule(server.DENIED, "DELETE|DELETE_MANY", "runs/*")]
    assert "delet" in right(storage, "s3://bucket/data/tar", out, "tar").stderr
    assert storage.has(out, "report.html")


@dataclass
class Retained:
    """A bucket with a retention: what has been written is not replaced."""

    written: set[str] = field(default_factory=set)

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        (key,) = request.keys
        if key in self.written:
            return server.DENIED(request, forward)
        self.written.add(key)
        return forward()


def test_a_bucket_whose_objects_cannot_be_replaced_is_told_before_any_work(storage: FaultyStorage, out: str) -> None:
    storage.store.rules = [Rule(Retained(), "PUT|COPY", "runs/*")]
    done = storage.job("s3://bucket/data/tar", out, ALL)
    check_told(done, "replace", code=2)
    assert storage.rows(out) == {}


# Addresses


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tar", "parquet"])
def test_a_query_of_an_address_is_none_of_its_names(storage: FaultyStorage, out: str, layout: str) -> None:
    storage.job(f"s3://bucket/data/{layout}?region=us-east-1", f"{out}?region=us-east-1", ALL).succeeded()
    check_right(storage, out, layout)


def test_a_split_and_a_query_go_together(storage: FaultyStorage, tmp_path: Path) -> None:
    for split, images in (("validation", digits(1)[:3]), ("test", digits(1)[3:])):
        file = plain_parquet(tmp_path / f"{split}-00000-of-00001.parquet", images)
        storage.store.put(f"split/{file.name}", file.read_bytes())
    for query in ("split=test&region=us-east-1", "region=us-east-1&split=test"):
        assert len(read_all(opened(f"s3://bucket/split?{query}", [str(n) for n in range(10)]))) == 7


def test_what_follows_a_number_sign_is_part_of_a_name(storage: FaultyStorage, tmp_path: Path) -> None:
    for image in digits(1):
        storage.store.put(f"val#2/{image.label}/{image.name}", image.data)
        storage.store.put(f"val/{image.label}/other-{image.name}", image.data)
    outputs = ["s3://bucket/run#1", "s3://bucket/run#2", f"file://{tmp_path}/run#1"]
    for out in outputs:
        storage.job("s3://bucket/val#2", out, "--overwrite").succeeded()
    for out in outputs:
        found = {row[0].rpartition("/")[2] for row in storage.rows(out.removeprefix("file://"))}
        assert found == {image.name for image in digits(1)}
    assert storage.store.keys("run/") == []
    assert sorted(os.listdir(tmp_path)) == ["run#1"]


@pytest.mark.parametrize(
    "keys",
    [
        ("0//lost.jpeg", "0/0/again.jpeg", "1/x.jpeg"),
        *(("0/x.jpeg", odd) for odd in ("/1/y.jpeg", "1/./y.jpeg", "1/../y.jpeg")),
    ],
    ids=lambda keys: " ".join(keys),
)
def test_a_key_with_an_odd_part_is_a_row_or_is_refused_by_its_name(
    request: pytest.FixtureRequest, storage: FaultyStorage, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    place = f"odd-{abs(hash(request.node.nodeid))}"
    for key, image in zip(keys, digits(1), strict=False):
        storage.store.put(f"{place}/{key}", image.data)
    done = storage.job(f"s3://bucket/{place}", str(tmp_path / "out"))
    if done.code:
        odd = next(key for key in keys if {"", ".", ".."} & set(key.split("/")))
        check_told(done, re.escape(odd), code=2)
        return
    found = storage.rows(str(tmp_path / "out"))
    assert sorted(row[0].rpartition("/")[2] for row in found.elements()) == sorted(key.rpartition("/")[2] for key in keys)
    assert len({row[0] for row in found}) == len(keys)
    assert not any(row[3] for row in found)


def test_objects_have_the_types_of_their_contents(storage: FaultyStorage, out: str) -> None:
    assert storage.job("s3://bucket/data/parquet", out, ALL).code == 0
    types = {".html": "text/html", ".json": "application/json", ".parquet": "application/vnd.apache.parquet"}
    for key in storage.store.keys(out.removeprefix("s3://bucket/")):
        expected = next((kind for ending, kind in types.items() if key.endswith(ending)), "")
        assert storage.store.client.head_object(Bucket="bucket", Key=key)["ContentType"].startswith(expected), key
