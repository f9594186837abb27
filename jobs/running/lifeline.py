"""Notice that Ray itself has died: its core then ends the driver's process within a minute, and says nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import ray
from ray._private import worker

from jobs.running.command import FAILED

LOOK_SECONDS = 2.0
FAILURES = {"scheduler (raylet)": 3, "control service (GCS)": 8}
"""Looks in a row at which one does not answer. A head may be behind a network that fails for some seconds."""


@contextmanager
def watch_ray(lost: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, look at this host's scheduler and at the cluster's control service.

    lost: told which one has ended, just before this process ends, with exit code 1.
    """
    ended = threading.Event()
    threading.Thread(target=_watch, args=(ended, lost), name="lifeline", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(ended: threading.Event, lost: Callable[[str], None]) -> None:
    node = worker._global_node
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    looks: dict[str, Callable[[], None]] = {
        "scheduler (raylet)": lambda: _connect_locally(node.raylet_socket_name),
        "control service (GCS)": lambda: socket.create_connection((host.strip("[]"), int(port)), LOOK_SECONDS).close(),
    }
    failures = dict.fromkeys(looks, 0)
    while not ended.wait(LOOK_SECONDS):
        for name, look in looks.items():
            try:
                look()
                failures[name] = 0
            except OSError:
                failures[name] += 1
            if failures[name] == FAILURES[name] and not ended.is_set():
                lost(name)
                with suppress(Exception):
                    node.kill_all_processes(check_alive=False, allow_graceful=False)
                os._exit(FAILED)


def _connect_locally(path: str) -> None:
    """Raises OSError where nothing listens."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LOOK_SECONDS)
        connection.connect(path)
