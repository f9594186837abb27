"""A store that answers after a while, as one far away does: the survey has many requests under way at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest

from jobs.pipeline.sources import open_source, surveyed

FOLDERS, IMAGES, LATENCY_SECONDS = 300, 5, 0.1
CONNECTIONS_OF_PYARROW = 25
"""More than that at once takes another setting of pyarrow's, made before the store is opened."""


class SlowStore(ThreadingHTTPServer):
    """As much of S3 as a listing asks for: a bucket with `data/<folder>/<image>.jpg`."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Listing)
        self.lock = threading.Lock()
        self.under_way = self.most = 0


class Listing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowStore

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        time.sleep(LATENCY_SECONDS)
        prefix = parse_qs(urlparse(self.path).query).get("prefix", [""])[0]
        if prefix == "data/":
            found = "".join(f"<CommonPrefixes><Prefix>data/{n:03d}/</Prefix></CommonPrefixes>" for n in range(FOLDERS))
        else:
            entry = "<Contents><Key>{}{}.jpg</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>9</Size></Contents>"
            found = "".join(entry.format(prefix, n) for n in range(IMAGES))
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>1</KeyCount>{found}</ListBucketResult>".encode()
        with self.server.lock:
            self.server.under_way -= 1
        self.answer(200, body)

    def do_HEAD(self) -> None:
        self.answer(404, b"")

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowStore]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = SlowStore()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_folders_of_a_slow_store_are_listed_many_at_a_time(store: SlowStore) -> None:
    uri = f"s3://bucket/data?scheme=http&endpoint_override=127.0.0.1:{store.server_port}&region=us-east-1"
    found = surveyed(open_source(uri, checkpoint_classes=[], labels="none"))
    assert found.images == FOLDERS * IMAGES
    assert store.most > CONNECTIONS_OF_PYARROW
