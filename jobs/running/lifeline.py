"""Notice that Ray itself has died: its core then ends the driver's process within seconds, and says nothing."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import ray

from jobs.running.stopping import FAILED, end_at_once

LOOK_SECONDS = 0.5
ANSWER_SECONDS = 2.0
SCHEDULER, CONTROL = "scheduler (raylet)", "control service (GCS)"
FAILURES = {SCHEDULER: 12, CONTROL: 32}
"""Looks in a row at which one does not answer. A head may be behind a network that fails for some seconds."""


@contextmanager
def watch_ray(lost: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, look at this host's scheduler and at the cluster's control service.

    lost: told which one has ended, just before this process ends, with exit code 1.
    """
    ended = threading.Event()
    here = next(node for node in ray.nodes() if node["NodeID"] == ray.get_runtime_context().get_node_id())
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    looks = {SCHEDULER: (here["NodeManagerAddress"], here["NodeManagerPort"]), CONTROL: (host.strip("[]"), int(port))}
    failures = dict.fromkeys(looks, 0)

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            for name, address in looks.items():
                try:
                    socket.create_connection(address, ANSWER_SECONDS).close()
                    failures[name] = 0
                except OSError as error:  # a closed port of this host is enough: its core may end the driver in two seconds
                    gone = name == SCHEDULER and isinstance(error, ConnectionRefusedError)
                    failures[name] += FAILURES[name] if gone else 1
                if failures[name] >= FAILURES[name] and not ended.is_set():
                    end_at_once(None, FAILED, last=partial(lost, name))

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
