"""An S3 server on this machine that refuses, delays, cuts off, truncates and damages what its rules name."""

from __future__ import annotations

import io
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.test import run_wsgi_app

OPERATIONS = ("GET", "HEAD", "PUT", "POST", "DELETE", "LIST", "COPY", "DELETE_MANY")


@dataclass(frozen=True)
class Request:
    """One of OPERATIONS on the keys that it names: one, but for DELETE_MANY. A listing's key is its prefix."""

    operation: str
    keys: tuple[str, ...]

    @classmethod
    def of(cls, method: str, target: str, headers: Any, body: bytes) -> Request:
        parts = urlsplit(target)
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        if key:
            return cls("COPY" if "x-amz-copy-source" in headers else method, (key,))
        if method == "POST":
            return cls("DELETE_MANY", tuple(re.findall(r"<Key>(.*?)</Key>", body.decode(), re.DOTALL)))
        return cls("LIST" if method == "GET" else method, (parse_qs(parts.query).get("prefix", [""])[0],))


@dataclass(frozen=True)
class Answer:
    """sent: bytes of the body after which the connection ends, None for all. reset: whether it ends as a crashed host's does.

    status: 0 where the connection ends without one.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    sent: int | None = None
    reset: bool = False


class Act(Protocol):
    """What is done with a request. forward: has the server answer it."""

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer: ...


@dataclass(frozen=True)
class Refuse:
    """S3's own error, in place of doing what is asked."""

    status: int
    code: str
    message: str = "no"

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        kind, told = (("Content-Type", "application/xml"),), f"<Code>{self.code}</Code><Message>{self.message}</Message>"
        if request.operation == "DELETE_MANY" and self.status == 403:  # each key is allowed or not
            refused = "".join(f"<Error><Key>{key}</Key>{told}</Error>" for key in request.keys)
            return Answer(200, kind, f"<DeleteResult>{refused}</DeleteResult>".encode())
        resource = f"<Resource>/{escape(request.keys[0])}</Resource>" if request.keys else ""
        return Answer(self.status, kind, f'<?xml version="1.0"?><Error>{told}{resource}</Error>'.encode())

    def __str__(self) -> str:
        return self.code


EXPIRED = Refuse(400, "ExpiredToken", "The provided token has expired.")
DENIED = Refuse(403, "AccessDenied", "Access Denied")
ARCHIVED = Refuse(403, "InvalidObjectState", "The operation is not valid for the object's storage class")
GONE = Refuse(404, "NoSuchKey", "The specified key does not exist.")
SLOW_DOWN = Refuse(503, "SlowDown", "Please reduce your request rate.")
INTERNAL = Refuse(500, "InternalError", "We encountered an internal error. Please try again.")
CHANGED = Refuse(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")


@dataclass(frozen=True)
class Delay:
    seconds: float

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        time.sleep(self.seconds)
        return forward()


@dataclass(frozen=True)
class Cut:
    """The connection ends. share: of the body that is sent before; None: without doing what is asked.

    What has no body is done, and its answer is lost.
    """

    share: float | None = None
    reset: bool = False

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = Answer(0, (), b"") if self.share is None else forward()
        if not answer.body:
            return replace(answer, status=0, reset=self.reset)
        return replace(answer, sent=int(len(answer.body) * (self.share or 0)), reset=self.reset)


@dataclass(frozen=True)
class Truncate:
    """A whole answer whose body, and Content-Length, is only this share of the object."""

    share: float

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        return replace(answer, body=answer.body[: int(len(answer.body) * self.share)])


@dataclass(frozen=True)
class Zeros:
    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        return replace(answer, body=bytes(len(answer.body)))


@dataclass
class Rule:
    """An act, and on which requests. Fields may be changed while the server runs.

    operation: names of OPERATIONS, with | between them, or * for all. key: a pattern as of a shell, in which * is any text.
    Of the requests that match, the first `skip` are spared, then each `every`-th is acted on with that probability, `times` times
    at most; only from `since` to `until`, in seconds after the rule was made. done: requests that were acted on, so far.
    """

    act: Act
    operation: str = "*"
    key: str = "*"
    skip: int = 0
    times: float = float("inf")
    every: int = 1
    probability: float = 1.0
    since: float = 0.0
    until: float = float("inf")
    seed: int = 0
    done: int = 0
    _seen: int = 0
    _made: float = field(default_factory=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        assert self.operation == "*" or set(self.operation.split("|")) <= set(OPERATIONS), self.operation
        self._random = random.Random(self.seed)

    def applies(self, request: Request) -> bool:
        """Count a request; whether it is to be acted on. One at a time."""
        named = self.operation == "*" or request.operation in self.operation.split("|")
        now = self.since <= time.monotonic() - self._made <= self.until
        if not (named and now and any(fnmatchcase(key, self.key) for key in request.keys)):
            return False
        self._seen += 1
        number = self._seen - self.skip
        if number <= 0 or number % self.every or self.done >= self.times or self._random.random() >= self.probability:
            return False
        self.done += 1
        return True


@dataclass
class Store:
    """A running server with one bucket, `bucket`.

    address: where its rules hold: the first that applies to a request acts on it. plain: where they do not.
    requests: how many came, by operation; most: how many were under way at once.
    """

    address: str = ""
    plain: str = ""
    rules: list[Rule] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    most: int = 0
    _under_way: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL": self.address, "AWS_EC2_METADATA_DISABLED": "true", **keys}

    @property
    def client(self) -> Any:
        """boto3's, past the rules."""
        with patch.dict(os.environ, self.environment | {"AWS_ENDPOINT_URL": self.plain}):
            return boto3.client("s3")

    @property
    def done(self) -> int:
        """Requests that the present rules acted on."""
        return sum(rule.done for rule in self.rules)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def put(self, key: str, body: bytes) -> None:
        """Put an object there, past HTTP: a thousand requests take 20 s."""
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object("bucket", key, body)

    def answer(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        """Under the rules."""
        with self._lock:
            self.requests[request.operation] += 1
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            act = next((rule.act for rule in list(self.rules) if rule.applies(request)), None)
        try:
            return act(request, forward) if act else forward()
        finally:
            with self._lock:
                self._under_way -= 1


@contextmanager
def s3_server() -> Iterator[Store]:
    """The server until the block ends."""
    store, application = Store(), DomainDispatcherApplication(create_backend_app)
    with ExitStack() as stack:
        store.address = stack.enter_context(_serving(application, store.answer))
        store.plain = stack.enter_context(_serving(application, lambda request, forward: forward()))
        store.client.create_bucket(Bucket="bucket")
        yield store


@contextmanager
def _serving(application: Any, answer: Act) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"application": application, "answer": staticmethod(answer)})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is none."""


class _Handler(BaseHTTPRequestHandler):
    """A client's connection, kept until one of both ends it."""

    protocol_version = "HTTP/1.1"
    application: Any
    answer: Act
    timeout = 60
    disable_nagle_algorithm = True  # else a small answer may wait 40 ms

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            body = self._body()
            self._send(self.answer(Request.of(self.command, self.path, self.headers, body), lambda: self._forward(body)))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> Answer:
        path, _, query = self.path.partition("?")
        environ = {
            **{f"HTTP_{k.upper().replace('-', '_')}": v for k, v in self.headers.items() if k.lower() != "transfer-encoding"},
            **{"wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO()},
            **{"REQUEST_METHOD": self.command, "SCRIPT_NAME": "", "PATH_INFO": unquote(path, "latin-1"), "QUERY_STRING": query},
            **{"REQUEST_URI": self.path, "RAW_URI": self.path, "SERVER_NAME": "127.0.0.1", "SERVER_PROTOCOL": "HTTP/1.1"},
            **{"SERVER_PORT": self.headers["Host"].rpartition(":")[2], "REMOTE_ADDR": "127.0.0.1"},
            **{"CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": self.headers.get("Content-Type", "")},
        }
        parts, status, headers = run_wsgi_app(self.application, environ, buffered=True)
        return Answer(int(status.split()[0]), tuple(headers.items()), b"".join(parts))

    def _send(self, answer: Answer) -> None:
        if answer.status:
            head = self.command == "HEAD"
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                if name.lower() not in ("connection", "transfer-encoding") and (head or name.lower() != "content-length"):
                    self.send_header(name, value)
            if not head and answer.status not in (204, 304):
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if not head:
                self.wfile.write(answer.body[: answer.sent])
        if not answer.status or answer.sent is not None:
            self.close_connection = True
            if answer.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
