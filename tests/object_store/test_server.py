"""The S3 server's rules: each act is done to the requests that its rule names and to no others, is counted, and ends."""

from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, IncompleteRead
from urllib.parse import urlsplit

import pytest

from tests.object_store import server as acts
from tests.object_store.server import Rule, Store, s3_server

AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=testing/20250101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
BODY = bytes(range(1, 251)) * 40


@pytest.fixture(scope="module")
def whole() -> Iterator[Store]:
    with s3_server() as store:
        store.put("data/file", BODY)
        yield store


@pytest.fixture
def store(whole: Store) -> Iterator[Store]:
    yield whole
    whole.rules = []


def ask(store: Store, method: str = "GET", target: str = "/bucket/data/file", body: bytes = b"") -> tuple[int, bytes]:
    """(status, body) of one request; (0, what came) where the connection ends early."""
    connection = HTTPConnection(urlsplit(store.address).netloc, timeout=20)
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


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (acts.EXPIRED, (400, b"<Code>ExpiredToken</Code>")),
        (acts.ARCHIVED, (403, b"<Code>InvalidObjectState</Code>")),
        (acts.Delay(0.01), (200, BODY)),
        (acts.Cut(), (0, b"")),
        (acts.Cut(reset=True), (0, b"")),
        (acts.Cut(0.25), (0, BODY[:2500])),
        (acts.Truncate(0.5), (200, BODY[:5000])),
        (acts.Zeros(), (200, bytes(10_000))),
    ],
    ids=lambda value: repr(value) if not isinstance(value, tuple) else "",
)
def test_an_act_is_done_to_the_second_get_of_its_key_alone(store: Store, act: acts.Act, expected: tuple[int, bytes]) -> None:
    store.rules = [Rule(act, operation="GET", key="data/*", skip=1, times=1)]
    assert ask(store) == (200, BODY)
    assert ask(store, target="/bucket/else")[0] == 404
    assert ask(store, "HEAD") == (200, b"")
    status, body = ask(store)
    assert status == expected[0]
    assert body == expected[1] or (status >= 400 and expected[1] in body)
    assert ask(store) == (200, BODY)
    assert store.done == 1


def test_rules_choose_by_number_chance_and_time(store: Store) -> None:
    def fails(asked: int = 12, **which: float) -> list[int]:
        store.rules = [Rule(acts.SLOW_DOWN, **which)]  # type: ignore[arg-type]
        return [number for number in range(1, asked + 1) if ask(store)[0] == 503]

    assert fails(every=3, skip=2) == [5, 8, 11]
    assert fails(times=2) == [1, 2]
    assert 20 < len(fails(60, probability=0.5, seed=1)) < 40
    assert fails(since=60) == fails(until=-1) == []
