"""Notice that Ray itself has died: its core then ends the driver's process within a minute, and says nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import ray
from ray._private import worker

from jobs.command import FAILED

LOOK_SECONDS = 2.0
FAILURES = 3
"""Looks in a row at which nothing answers, so that a full queue is not taken for an end."""


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
    looks: dict[str, Callable[[], bool]] = {
        "scheduler (raylet)": lambda: _answers(socket.AF_UNIX, node.raylet_socket_name),
        "control service (GCS)": lambda: _answers(socket.AF_INET, (host, int(port))),
    }
    failures = dict.fromkeys(looks, 0)
    while not ended.wait(LOOK_SECONDS):
        for name, answers in looks.items():
            failures[name] = 0 if answers() else failures[name] + 1
            if failures[name] == FAILURES and not ended.is_set():
                lost(name)
                with suppress(Exception):
                    node.kill_all_processes(check_alive=False, allow_graceful=False)
                os._exit(FAILED)


def _answers(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as connection:
        connection.settimeout(LOOK_SECONDS)
        try:
            connection.connect(address)
        except OSError:
            return False
    return True
