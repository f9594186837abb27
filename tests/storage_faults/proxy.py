"""A proxy before an S3 server that refuses, delays, cuts, truncates and damages what its rules name."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

OPERATIONS = ("GET", "HEAD", "PUT", "DELETE", "LIST", "COPY", "UPLOAD", "PART", "COMPLETE", "ABORT", "DELETE_MANY", "BUCKET")
"""UPLOAD, PART, COMPLETE and ABORT are of an upload in parts. BUCKET is what is asked of a bucket besides its listing."""

_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}


@dataclass(frozen=True)
class Request:
    """One of OPERATIONS on the keys that it names: one, but for DELETE_MANY. A listing's key is its prefix."""

    operation: str
    keys: tuple[str, ...]
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def of(cls, method: str, target: str, headers: tuple[tuple[str, str], ...], body: bytes) -> Request:
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True)
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        keys: tuple[str, ...] = (key,)
        if key:
            copied = any(name.lower() == "x-amz-copy-source" for name, _ in headers)
            ordinary = "COPY" if copied and "partNumber" not in query else method
            names = {
                ("POST", True): "UPLOAD" if "uploads" in query else "COMPLETE",
                ("PUT", True): "PART",
                ("DELETE", True): "ABORT",
            }
            operation = names.get((method, "uploadId" in query or "uploads" in query), ordinary)
        elif method == "POST" and "delete" in query:
            operation, keys = "DELETE_MANY", tuple(re.findall(r"<Key>(.*?)</Key>", body.decode(), re.DOTALL))
        elif method == "GET" and ("list-type" in query or not parts.query or "prefix" in query):
            operation, keys = "LIST", (query.get("prefix", [""])[0],)
        else:
            operation = "BUCKET"
        return cls(operation, keys, method, target, headers, body)


@dataclass(frozen=True)
class Answer:
    """sent: bytes of the body after which the connection ends, None for all. reset: whether it ends as a crashed host's does.

    silent: whether the connection ends without a status line.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    sent: int | None = None
    silent: bool = False
    reset: bool = False


class Act(Protocol):
    """What is done with a request. forward: has the server answer it."""

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer: ...


@dataclass(frozen=True)
class Refuse:
    """S3's own error, in place of doing what is asked."""

    status: int
    code: str
    message: str

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        kind = (("Content-Type", "application/xml"),)
        if request.operation == "DELETE_MANY" and self.status == 403:  # each key is allowed or not
            refused = "".join(f"<Error><Key>{key}</Key>{self._told}</Error>" for key in request.keys)
            return Answer(200, kind, f"<DeleteResult>{refused}</DeleteResult>".encode())
        resource = f"<Resource>/{escape(request.keys[0])}</Resource>" if request.keys else ""
        return Answer(self.status, kind, f'<?xml version="1.0"?><Error>{self._told}{resource}</Error>'.encode())

    def __str__(self) -> str:
        return self.code

    @property
    def _told(self) -> str:
        return f"<Code>{self.code}</Code><Message>{self.message}</Message>"


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
        if self.share is None:
            return Answer(0, (), b"", silent=True, reset=self.reset)
        answer = forward()
        return replace(answer, sent=int(len(answer.body) * self.share), silent=not answer.body, reset=self.reset)


@dataclass(frozen=True)
class Truncate:
    """A whole answer whose body, and Content-Length, is only this share of the object."""

    share: float

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        return replace(answer, body=answer.body[: int(len(answer.body) * self.share)])


@dataclass(frozen=True)
class Corrupt:
    """One bit of each so many bytes is another."""

    every: int = 1000

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        body = bytearray(answer.body)
        body[self.every // 2 :: self.every] = bytes(byte ^ 1 for byte in body[self.every // 2 :: self.every])
        return replace(answer, body=bytes(body))


@dataclass(frozen=True)
class Zeros:
    """Zeros from one share of the body to another."""

    start: float = 0.0
    end: float = 1.0

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        first, last = (int(len(answer.body) * share) for share in (self.start, self.end))
        return replace(answer, body=answer.body[:first] + bytes(last - first) + answer.body[last:])


@dataclass
class Rule:
    """An act, and on which requests. Fields may be changed while the proxy runs.

    operation: names of OPERATIONS, with | between them, or * for all. key: a pattern as of a shell, in which * is any text.
    Of the requests that match, the first `skip` are spared, then each `every`-th is acted on with that probability, `times` times
    at most; only from `since` to `until`, in seconds after the rule was made.
    seen, done: requests that matched and that were acted on, so far.
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
    seen: int = 0
    done: int = 0
    _made: float = field(default_factory=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        assert self.operation == "*" or set(self.operation.split("|")) <= set(OPERATIONS), self.operation
        self._random = random.Random(self.seed)

    def applies(self, request: Request) -> bool:
        """Count a request; whether it is to be acted on. One at a time."""
        if self.operation != "*" and request.operation not in self.operation.split("|"):
            return False
        if not any(fnmatchcase(key, self.key) for key in request.keys):
            return False
        if not self.since <= time.monotonic() - self._made <= self.until:
            return False
        self.seen += 1
        number = self.seen - self.skip
        if number <= 0 or number % self.every or self.done >= self.times or self._random.random() >= self.probability:
            return False
        self.done += 1
        return True


@dataclass
class Proxy:
    """rules: the first that applies to a request acts on it. requests: how many came, by operation."""

    address: str
    rules: list[Rule] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def done(self) -> int:
        """Requests that the present rules acted on."""
        return sum(rule.done for rule in self.rules)

    def act_on(self, request: Request) -> Act | None:
        with self._lock:
            self.requests[request.operation] += 1
            return next((rule.act for rule in list(self.rules) if rule.applies(request)), None)


@contextmanager
def proxy_before(address: str) -> Iterator[Proxy]:
    """A proxy before the server at this address, http://host:port, until the block ends."""
    proxy = Proxy("")

    class Handler(_Handler):
        upstream = urlsplit(address).netloc

    Handler.proxy = proxy
    server = _Server(("127.0.0.1", 0), Handler)
    proxy.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is none."""


class _Handler(BaseHTTPRequestHandler):
    """A client's connection, and one to the server for as long as it lasts."""

    protocol_version = "HTTP/1.1"
    proxy: Proxy
    upstream: str
    timeout = 60
    disable_nagle_algorithm = True  # else a small answer may wait 40 ms

    def setup(self) -> None:
        super().setup()
        self._server = HTTPConnection(self.upstream, timeout=60)

    def finish(self) -> None:
        self._server.close()
        with suppress(OSError):
            super().finish()

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            request = Request.of(self.command, self.path, tuple(self.headers.items()), self._body())
            act = self.proxy.act_on(request)

            def forward() -> Answer:
                return self._forward(request)

            self._send(request.method, act(request, forward) if act else forward())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def _forward(self, request: Request) -> Answer:
        dropped = _OF_A_CONNECTION | {"content-length", "expect"}
        headers = {name: value for name, value in request.headers if name.lower() not in dropped}
        for attempt in range(2):
            try:
                self._server.request(
                    request.method, request.target, request.body, headers | {"Content-Length": str(len(request.body))}
                )
                answer = self._server.getresponse()
                body = answer.read()
                break
            except (OSError, HTTPException):  # the server closes connections that are idle
                self._server.close()
                if attempt:
                    raise
        kept = tuple((name, value) for name, value in answer.getheaders() if name.lower() not in _OF_A_CONNECTION)
        return Answer(answer.status, kept, body)

    def _send(self, method: str, answer: Answer) -> None:
        if answer.silent:
            self._hang_up(answer.reset)
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() != "content-length" or method == "HEAD":
                self.send_header(name, value)
        if method != "HEAD" and answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(answer.body[: answer.sent])
        if answer.sent is not None:
            self._hang_up(answer.reset)

    def _hang_up(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
