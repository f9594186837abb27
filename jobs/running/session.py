"""Join a Ray cluster, or start Ray on this machine, quietly and within a time limit."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from jobs.running.ray_home import ray_home
from vit_actor.errors import UserError

CONNECT_SECONDS = 5.0

RENEW_SECONDS = 2
"""Between two renewals of what Ray Data has reserved; it expires when four in a row are late."""

OWN_RAY = {
    # Ray ends workers that are idle for a second where there are more of them than cores, only to start them again; a decode
    # task may have to wait minutes for a slow device.
    "idle_worker_killing_time_threshold_ms": "600000",
    # Its scheduler tries to reach its object store before that listens, in half of all starts, and then waits this long: a second
    # unless told otherwise. Ten seconds of attempts in all, as without this.
    "raylet_client_connect_timeout_milliseconds": "20",
    "raylet_client_num_connect_attempts": "500",
    # The driver would wait for workers before it asks for any.
    "prestart_worker_first_driver": "false",
}
"""Settings of Ray's own, of a session on this machine."""


@contextmanager
def ray_session(address: str | None, meanwhile: Iterable[str] = ()) -> Iterator[None]:
    """Connect to `address` (host:port, or RAY_ADDRESS, as a submitted job has it), else start Ray on this machine.

    meanwhile: modules to import while this process would wait for Ray's; none that imports Ray.
    Raises UserError when nothing answers at the address; a dead one would otherwise hold the driver for minutes.
    """
    said = f"--address {address}" if address else f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}"
    address = address or os.environ.get("RAY_ADDRESS")
    _pass_by_proxies(address)
    set_environment()
    warnings.filterwarnings("ignore", module=r"ray\.data")
    settings: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if address and address != "auto":
        _check_reachable(address, said)
    with ExitStack() as session:
        if not address:
            # A token of this session's own: no other account may use it, and no file is left in the home.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            for name, value in OWN_RAY.items():
                os.environ.setdefault(f"RAY_{name}", value)
            home = session.enter_context(ray_home())
        import ray  # after the variables above, which it reads, and after every mistake that can be told without it

        logging.getLogger("ray").setLevel(logging.CRITICAL)
        # Ray prints a worker's death to standard output, in colour, even with log_to_driver=False. The ledger reports it too.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        threading.Thread(target=lambda: [import_module(name) for name in meanwhile], daemon=True).start()
        try:
            with _without_native_stderr():
                if address:
                    session.callback(ray.shutdown)
                    ray.init(address=address, **settings)
                else:
                    from jobs.running.local_ray import local_ray

                    session.enter_context(local_ray(home, **settings))
        except ray.exceptions.AuthenticationError:
            fix = "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own"
            raise UserError(f"{said}: the cluster refuses this token; {fix}") from None
        except ConnectionError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{said}: no Ray cluster answers there ({reason}); start one, or leave it out") from None
        yield


def set_environment() -> None:
    """Settings that Ray reads when it is imported."""
    # An unreachable usage server or name server must not delay the start.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A dead driver's reservation would otherwise keep the next job from its CPUs for three minutes. Ray Data renews a live one's
    # every ten seconds unless told to sooner; until a lapsed one is, a mesh gets a single chunk at a time.
    os.environ.setdefault("RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS", str(RENEW_SECONDS))
    os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", str(5 * RENEW_SECONDS))
    # Ray prints its own housekeeping on the driver's terminal; what matters arrives as an exception. Ray Data's log file, in
    # the session's directory, keeps the tracebacks.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@contextmanager
def _without_native_stderr() -> Iterator[None]:
    """Ray's core announces its log level on file descriptor 2, past Python's logging."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _pass_by_proxies(address: str | None) -> None:
    """Keep an HTTP proxy of the environment out of the way to Ray, whose gRPC would ask it even for this machine's own ports."""
    hosts = ["127.0.0.1", "localhost", *([address.removeprefix("ray://").rpartition(":")[0]] if address else [])]
    for name in ("no_proxy", "NO_PROXY"):
        known = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join([*known, *(host for host in hosts if host and host not in known)])


def _check_reachable(address: str, said: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{said}: expected host:port, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(f"{said}: no Ray cluster answers there ({error.strerror or error}); start one, or leave it out") from None
