"""Join a Ray cluster, or start Ray on this machine, quietly and within a time limit."""

import logging
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TextIO

from jobs.pipeline.ray_internals import without_helpers
from jobs.running import machine
from jobs.running.command import USER_ERROR, JobFailed, Stopped, ray_settings
from jobs.running.local_ray import LOG_NAME, local_ray
from jobs.running.progress import telling
from jobs.running.start import stream
from jobs.running.stopping import FAILED, end_at_once, handlers_kept
from jobs.storage.address import redacted
from vit_actor.errors import UserError

CONNECT_SECONDS = 5.0
INIT_SECONDS = 60.0
HTTP_2, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5), b"\4"
"""How a client of gRPC, which a head speaks, begins, and the kind of what a server answers."""

RENEW_SECONDS = 2  # Between two renewals of what Ray Data has reserved; it expires when four in a row are late
KNOWN = r"\d+|true|false"  # Values of settings that Ray can read, whichever they are
NOT_STARTED = "Ray does not start on this machine"


@contextmanager
def ray_session(address: str | None, needed: Iterable[str] = ()) -> Iterator[None]:
    """Connect to `address` (host:port, or RAY_ADDRESS, as a submitted job has it), else start Ray on this machine.

    needed: modules that the block imports, which they are here, while Ray starts.
    What Ray says goes to a log, and so does what is printed to standard output meanwhile, since Ray prints there too. If the
    block fails, a copy of it stays, and a note of the exception says where. Where this process has initialised Ray already, the
    block runs in that, which stays as it is.
    Raises UserError when nothing answers at the address; a dead one would otherwise hold the driver for minutes.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        with _callers_ray(address, needed):
            yield
        return
    given = os.environ.get("RAY_ADDRESS")
    said = f"--address {address}"
    if given and address in (None, "", "auto"):  # which is what Ray takes
        said, address = f"RAY_ADDRESS={given}", given
    _pass_by_proxies(address)
    set_environment()
    _check_settings()
    home = None if address else _prepare_machine()
    if address and address != "auto":
        _check_reachable(address, said)
    with ExitStack() as session:
        if home:
            started = session.enter_context(local_ray(home))
            log = session.enter_context((home / LOG_NAME).open("a", buffering=1))
        else:  # in memory: a driver that is killed leaves no file
            log = session.enter_context(open(os.memfd_create(LOG_NAME), "a", buffering=1))
        session.push(lambda _, error, __: _note_log(error, log))
        import ray  # after the variables above, which it reads, and after every mistake that can be told without it

        for name in needed:
            import_module(name)
        session.enter_context(_ray_writes_to(log))
        if home and "ray.data" in needed:
            session.enter_context(without_helpers())
        session.callback(ray.shutdown)
        # ray.init sets a handler of its own for SIGTERM.
        with handlers_kept(), _limited(None if home else said, log), nullcontext() if home else telling(said):
            if home and not (address := started()):
                raise JobFailed("; ".join([NOT_STARTED, *ray_settings()]))
            try:
                ray.init(address=address, configure_logging=False, log_to_driver=False)
            except (ray.exceptions.AuthenticationError, ConnectionError) as error:
                if home:
                    raise JobFailed(f"{NOT_STARTED}: {error}") from error
                raise UserError(f"{said}: {_why_not_joined(error)}") from None
        yield


def _prepare_machine() -> Path:
    """Let Ray have what it needs here, and no other account use it; a new directory for its files, whatever TMPDIR says."""
    machine.raise_limits()
    if told := machine.too_little():
        raise UserError(f"this machine does not let Ray run: {'; '.join(told)}; or give the --address of a cluster")
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:  # which it read when it was imported
        why = "Ray was imported before classify(), which then starts no protected Ray of its own"
        raise UserError(f"{why}; call ray.init() first")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of this session's own; no file of it is left in the home
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        return Path(tempfile.mkdtemp(prefix="loudbox-", dir=machine.place_for_files()))
    except OSError as error:
        raise UserError(str(error)) from None


@contextmanager
def _callers_ray(address: str | None, needed: Iterable[str]) -> Iterator[None]:
    """In the Ray that this process has initialised; Ray Data's settings, and its quiet, end with the block."""
    if address:
        raise UserError(f"--address {address}: this process uses a Ray already; leave it out, or call ray.shutdown() before")
    from ray.data import DataContext

    for name in needed:
        import_module(name)
    with ExitStack() as restored:
        restored.enter_context(DataContext.current(DataContext.get_current().copy()))
        restored.enter_context(warnings.catch_warnings(action="ignore"))
        for handler in _terminals("ray.data"):
            restored.callback(handler.setLevel, handler.level)
            handler.setLevel(logging.ERROR)
        yield


def _terminals(logger: str) -> list[logging.StreamHandler[TextIO]]:
    """The logger's handlers that show what they are told; files are none."""
    handlers = logging.getLogger(logger).handlers
    return [each for each in handlers if isinstance(each, logging.StreamHandler) and not isinstance(each, logging.FileHandler)]


def set_environment() -> None:
    """Settings that Ray reads when it is imported."""
    # An unreachable usage server or name server must not delay the start.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A dead driver's reservation would otherwise keep the next job from its CPUs for three minutes. Ray Data renews a live one's
    # every ten seconds unless told to sooner; until a lapsed one is, a mesh gets a single chunk at a time.
    os.environ.setdefault("RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS", str(RENEW_SECONDS))
    os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", str(5 * RENEW_SECONDS))


def _check_settings() -> None:
    """Raise UserError for a setting that Ray's core cannot read: it would end this process as it is loaded, without a word."""
    names = [name for name, value in os.environ.items() if re.match("RAY_[a-z]", name) and not re.fullmatch(KNOWN, value)]
    if names and subprocess.run([sys.executable, "-c", "import ray"], capture_output=True, check=False).returncode:
        raise UserError(f"Ray cannot read the value of {' or '.join(names)} in the environment; correct it, or unset it")


def _why_not_joined(error: Exception) -> str:
    if isinstance(error, ConnectionError) and "AuthToken" not in str(error.__cause__):
        return f"no Ray cluster answers there ({(str(error).splitlines() or ['no reason given'])[0]}); start one, or leave it out"
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return "the cluster wants a token; set RAY_AUTH_MODE=token, and copy the head's ~/.ray/auth_token"
    return "the cluster refuses this token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own"


def _note_log(error: BaseException | None, log: TextIO) -> None:
    """Where a job broke, copy Ray's log to where it stays, and note on the exception where that is."""
    if isinstance(error, Exception) and not isinstance(error, UserError | Stopped):
        error.add_note(_kept(log))


def _kept(log: TextIO) -> str:
    """Copy Ray's log, without secrets, to where it stays; says where that is."""
    try:
        lines = Path(f"/proc/self/fd/{log.fileno()}").read_text(errors="replace").splitlines(keepends=True)
        with tempfile.NamedTemporaryFile("w", prefix="loudbox-ray-", suffix=".log", delete=False) as kept:
            kept.write("".join(map(redacted, lines)))
    except OSError as error:
        return f"Ray's log cannot be kept ({error})"
    return f"Ray's log: {kept.name}"


@contextmanager
def _ray_writes_to(log: TextIO) -> Iterator[None]:
    """What Ray logs and prints in this process, and warnings, go to the log; sys.stderr stays the terminal's."""
    into = logging.StreamHandler(log)
    into.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with ExitStack() as restored:
        for logger in map(logging.getLogger, ("ray", "py.warnings")):
            restored.callback(setattr, logger, "handlers", logger.handlers)
            logger.handlers = [into]
        for handler in _terminals("ray.data"):
            restored.callback(setattr, handler, "stream", handler.stream)  # setStream would flush one that may be closed
            handler.stream = log
        logging.captureWarnings(True)
        restored.callback(logging.captureWarnings, False)
        sys.stderr.flush()
        terminal = os.dup(2)  # Ray's core writes to file descriptor 2, past Python
        os.dup2(log.fileno(), 2)
        restored.callback(os.close, terminal)
        restored.callback(os.dup2, terminal, 2)
        if sys.stderr is sys.__stderr__:
            restored.enter_context(redirect_stderr(stream(terminal)))
        restored.enter_context(redirect_stdout(log))
        yield


def _pass_by_proxies(address: str | None) -> None:
    """Keep an HTTP proxy of the environment out of the way to Ray, whose gRPC would ask it even for this machine's own ports."""
    hosts = ["127.0.0.1", "localhost", (address or "").rpartition(":")[0]]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(dict.fromkeys(filter(None, [*os.environ.get(name, "").split(","), *hosts])))


@contextmanager
def _limited(said: str | None, log: TextIO) -> Iterator[None]:
    """End the process where the block takes INIT_SECONDS: Ray asks some servers that are not its own for ever.

    said: what named a cluster; None for Ray on this machine, whose log is kept.
    """

    def end() -> None:
        silent = f"gives no answer for {INIT_SECONDS:g} s"
        if said:
            end_at_once(f"error: {said} {silent}; see `ray status`, and give the head's host:6379", USER_ERROR)
        end_at_once(f"error: Ray on this machine {silent}; {_kept(log)}", FAILED)

    timer = threading.Timer(INIT_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_reachable(address: str, said: str) -> None:
    parsed = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]/]+):(\d{1,5})", address)
    if not parsed or int(parsed[2]) > 65535:
        kinds = {"ray": ", not Ray Client's address", "http": ", not the dashboard's", "https": ", not the dashboard's"}
        what = f"host:port of the head{kinds.get(address.partition('://')[0], '')}"
        raise UserError(f"{said}: expected {what}, such as 10.0.0.1:6379 or [fd00::1]:6379")
    host, port = parsed[1].strip("[]"), int(parsed[2])
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as server:
            if "RAY_USE_TLS" not in os.environ:
                server.sendall(HTTP_2)
                if server.recv(9)[3:4] != SETTINGS:
                    other = "what answers there is no head; the dashboard and Ray's other servers have ports of their own"
                    raise UserError(f"{said}: {other}; give the head's host:port, such as {host}:6379")
    except OSError as error:
        raise UserError(f"{said}: no Ray cluster answers there ({error.strerror or error}); start one, or leave it out") from None
