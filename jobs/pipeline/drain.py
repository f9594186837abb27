"""Leave a host that is being drained: what was begun there is finished and committed, and nothing more is taken."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import ray

from jobs.pipeline.event_log import EventLog
from jobs.pipeline.ray_internals import draining_nodes

LOOK_SECONDS = 10.0  # Between two questions to the cluster; with 1,000 meshes it answers 100 a second
LAST_SECONDS = 3.0  # For the last chunks to be committed and reported, after the device has answered


def leave_when_drained(alone: Callable[[], AbstractContextManager[None]], check: Callable[[], None], log: EventLog) -> None:
    """From a thread, end this actor's process between two chunks once its node drains (`ray drain-node`).

    alone: a block that begins when no chunk is on the device, and in which none is put there. check: the last of the chips.
    Ray then starts the actor on other boards, at once or when a mesh has run out of work, and hands it what had not begun.
    """
    if not (draining := draining_nodes()):
        return

    def watch() -> None:
        node = ray.get_runtime_context().get_node_id()
        while node not in draining():
            time.sleep(LOOK_SECONDS)
        log.info("host drains")
        with alone():
            check()
            time.sleep(LAST_SECONDS)
            log.info("mesh drained")
            os._exit(0)

    threading.Thread(target=watch, name="drain", daemon=True).start()
