"""The proxy: each act is done to the requests that its rule names and to no others, is counted, and ends with its rule."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, IncompleteRead
from urllib.parse import urlsplit

import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from tests.object_store.server import Store, s3_server
from tests.storage_faults import proxy as acts
from tests.storage_faults.proxy import Proxy, Rule, proxy_before

AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=testing/20250101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
BODY = bytes(range(1, 251)) * 40


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with s3_server() as store:
        yield store


@pytest.fixture
def proxy(store: Store) -> Iterator[Proxy]:
    store.put("data/file", BODY)
    with proxy_before(store.address) as proxy:
        yield proxy


def ask(proxy: Proxy, method: str = "GET", target: str = "/bucket/data/file", body: bytes = b"") -> tuple[int, bytes]:
    """(status, body) of one request; (0, what came) where the connection ends early."""
    connection = HTTPConnection(urlsplit(proxy.address).netloc, timeout=20)
    try:
        connection.request(method, target, body, {"Authorization": AUTHORIZATION})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except IncompleteRead as error:
        return 0, error.partial
    except (HTTPException, ConnectionError):
        return 0, b""
    finally:
        connection.close()


def corrupted(body: bytes) -> bytes:
    return bytes(byte ^ (n % 1000 == 500) for n, byte in enumerate(body))


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (acts.EXPIRED, (400, b"<Code>ExpiredToken</Code>")),
        (acts.DENIED, (403, b"<Code>AccessDenied</Code>")),
        (acts.ARCHIVED, (403, b"<Code>InvalidObjectState</Code>")),
        (acts.GONE, (404, b"<Code>NoSuchKey</Code>")),
        (acts.SLOW_DOWN, (503, b"<Code>SlowDown</Code>")),
        (acts.INTERNAL, (500, b"<Code>InternalError</Code>")),
        (acts.CHANGED, (412, b"<Code>PreconditionFailed</Code>")),
        (acts.Delay(0.01), (200, BODY)),
        (acts.Cut(), (0, b"")),
        (acts.Cut(reset=True), (0, b"")),
        (acts.Cut(0.25), (0, BODY[:2500])),
        (acts.Truncate(0.5), (200, BODY[:5000])),
        (acts.Corrupt(), (200, corrupted(BODY))),
        (acts.Zeros(), (200, bytes(10_000))),
        (acts.Zeros(0.5, 0.75), (200, BODY[:5000] + bytes(2500) + BODY[7500:])),
    ],
    ids=lambda value: repr(value) if not isinstance(value, tuple) else "",
)
def test_an_act_is_done_to_the_second_get_of_its_key_and_to_nothing_else(
    proxy: Proxy, act: acts.Act, expected: tuple[int, bytes]
) -> None:
    rule = Rule(act, operation="GET", key="data/*", skip=1, times=1)
    proxy.rules = [rule]
    assert ask(proxy) == (200, BODY)
    assert ask(proxy, target="/bucket/else")[0] == 404
    assert ask(proxy, "HEAD") == (200, b"")
    status, body = ask(proxy)
    assert status == expected[0]
    assert body == expected[1] or (status >= 400 and expected[1] in body)
    assert ask(proxy) == (200, BODY)
    assert (rule.seen, rule.done, proxy.done) == (3, 1, 1)
    assert proxy.requests["GET"] == 4


def test_rules_choose_by_number_chance_and_time_and_can_be_changed(proxy: Proxy) -> None:
    def fails(rule: Rule, asked: int = 12) -> list[int]:
        proxy.rules = [rule]
        return [number for number in range(1, asked + 1) if ask(proxy)[0] == 503]

    assert fails(Rule(acts.SLOW_DOWN, every=3, skip=2)) == [5, 8, 11]
    assert fails(Rule(acts.SLOW_DOWN, times=2)) == [1, 2]
    assert 20 < len(fails(Rule(acts.SLOW_DOWN, probability=0.5, seed=1), 60)) < 40
    assert fails(Rule(acts.SLOW_DOWN, since=60)) == []
    assert fails(Rule(acts.SLOW_DOWN, until=-1)) == []
    rule = Rule(acts.SLOW_DOWN, until=60)
    assert fails(rule, 2) == [1, 2]
    rule.until = 0
    time.sleep(0.01)
    assert ask(proxy)[0] == 200


def test_what_is_cut_is_done_or_not(proxy: Proxy, store: Store) -> None:
    proxy.rules = [Rule(acts.Cut(), "PUT"), Rule(acts.Cut(1.0), "DELETE")]
    assert ask(proxy, "PUT", "/bucket/cut", b"new")[0] == 0
    assert store.keys("cut") == []
    store.put("cut", b"new")
    assert ask(proxy, "DELETE", "/bucket/cut")[0] == 0
    assert store.keys("cut") == []


def test_pyarrow_works_through_it_and_each_operation_is_known(
    proxy: Proxy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    filesystem = S3FileSystem(endpoint_override=proxy.address)
    big = BODY * 1500
    for name, body in (("größe +/file", BODY), ("big", big)):
        with filesystem.open_output_stream(f"bucket/here/{name}") as stream:
            stream.write(body)
        with filesystem.open_input_file(f"bucket/here/{name}") as file:
            assert file.readall() == body
    filesystem.copy_file("bucket/here/big", "bucket/here/copy")
    names = {info.path for info in filesystem.get_file_info(FileSelector("bucket/here", recursive=True))}
    assert {"bucket/here/big", "bucket/here/copy", "bucket/here/größe +/file"} <= names
    filesystem.delete_file("bucket/here/copy")
    filesystem.delete_dir_contents("bucket/here")
    assert store.keys("here/b") == []
    expected = {"GET", "HEAD", "PUT", "DELETE", "LIST", "COPY", "UPLOAD", "PART", "COMPLETE", "DELETE_MANY"}
    assert expected <= set(proxy.requests)

    proxy.rules = [Rule(acts.DENIED, "DELETE_MANY", "there/a")]
    store.put("there/a", b"")
    with pytest.raises(OSError, match="Access Denied"):
        filesystem.delete_dir_contents("bucket/there")
    assert store.keys("there") == ["there/a"]
    proxy.rules = [Rule(acts.DENIED, "GET|HEAD", "data/*")]
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        filesystem.open_input_file("bucket/data/file").read()
