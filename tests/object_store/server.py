"""An S3 server over HTTP on this machine, which can be slow, unavailable now and then, or refuse."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from unittest.mock import patch

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Respond = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
ANSWERS = {503: "SlowDown", 403: "InvalidAccessKeyId"}


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@dataclass
class Store:
    """A running server with one bucket, `bucket`.

    unavailable: of so many requests one is answered 503; 0 for none. refusing: all are answered 403. delay: seconds before each
    answer. refused: requests answered so, so far.
    """

    unavailable: int = 0
    refusing: bool = False
    delay: float = 0.0
    refused: int = 0
    address: str = ""
    _requests: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL": self.address, "AWS_EC2_METADATA_DISABLED": "true", **keys}

    @property
    def client(self) -> Any:
        with patch.dict(os.environ, self.environment):
            return boto3.client("s3")

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def put(self, key: str, body: bytes) -> None:
        """Put an object there, past HTTP: a thousand requests take 20 s."""
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object("bucket", key, body)

    def around(self, respond: Respond) -> Respond:
        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            time.sleep(self.delay)
            unavailable = self.unavailable and next(self._requests) % self.unavailable == 0
            if unavailable or self.refusing:
                self.refused += 1
                status = 403 if self.refusing else 503
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                body = f'<?xml version="1.0"?><Error><Code>{ANSWERS[status]}</Code><Message>no</Message></Error>'.encode()
                start_response(f"{status} no", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
                return [body]
            return respond(environ, start_response)

        return answer


@contextmanager
def s3_server() -> Iterator[Store]:
    """The server until the block ends."""
    store = Store()
    application = store.around(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    store.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.client.create_bucket(Bucket="bucket")
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
