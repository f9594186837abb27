"""The only place that reaches past Ray's public interface. LOUDBOX_PLAIN_RAY=1 turns all of it off, and everything still works.

| what | what it buys | without it |
|---|---|---|
| `start_bare_node`: Ray on one machine without client server, dashboard and agents | a job that starts its own Ray | `ray start` |
| `without_helpers`: Ray Data without its three helper actors, on such a node | the same | they start, each a process |
| `draining_nodes`: which hosts are being drained (`ray drain-node`) | a mesh leaves between two chunks | as if the host were lost |

Each looks for the attributes and arguments that it needs. Where Ray has another one it is off, and a line in the log says so.
jobs/pipeline/README.md has what each buys, measured.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

PLAIN_RAY = "LOUDBOX_PLAIN_RAY"
LOG = logging.getLogger("ray.loudbox")

IDLE_COMMAND = "cat"
"""In place of an agent, without which Ray's scheduler does not start: it ends when the scheduler closes its standard input."""
AGENT_COMMANDS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
AGENT_PORTS = ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN", "RUNTIME_ENV_AGENT")
NO_PORT = -1
"""What an agent without a service of its own writes down as its port."""

HELPERS = {  # where Ray Data finds what is replaced: the arguments it is called with
    ("ray.data._internal.stats", "get_or_create_stats_actor"): (),
    ("ray.data._internal.execution.operators.actor_pool_map_operator", "get_or_create_actor_location_tracker"): (),
    ("ray.data._internal.execution.operators.actor_pool_map_operator", "get_actor_locations"): ("logical_actor_ids",),
    ("ray.data._internal.cluster_autoscaler.rate_based_cluster_autoscaler", "DefaultAutoscalingCoordinator"): (
        "requester_id",
        "autoscaling_coordinator_actor",
        "subcluster_selector",
    ),
}


def works(what: str, *needed: tuple[str, str, tuple[str, ...]]) -> bool:
    """Whether Ray has all that is needed, (module, attribute, its first arguments), and nothing turns it off."""
    if os.environ.get(PLAIN_RAY) == "1":
        LOG.warning("%s is off: %s=1", what, PLAIN_RAY)
        return False
    for module, path, arguments in needed:
        try:
            found: Any = importlib.import_module(module)
            for name in path.split("."):
                found = getattr(found, name)
            has = tuple(inspect.signature(found).parameters) if callable(found) else ()
        except (ImportError, AttributeError):
            has = None
        if has is None or not set(arguments) <= set(has):
            LOG.warning("%s is off: this release of Ray has no %s.%s%s", what, module, path, arguments)
            return False
    return True


def draining_nodes() -> Callable[[], set[str]] | None:
    """A function that tells Ray's ids of the nodes that are being drained; None where it is off."""
    if not works("draining_nodes", ("ray._private.state", "state.get_draining_nodes", ())):
        return None
    state = importlib.import_module("ray._private.state").state
    return lambda: set(state.get_draining_nodes())


def bare_node_works() -> bool:
    """Whether `start_bare_node` can be used."""
    arguments = ("command", "process_type", "fate_share")
    settings = ("node_ip_address", "temp_dir", "no_monitor", "include_log_monitor")
    return works(
        "start_bare_node",
        ("ray._private.services", "start_ray_process", arguments),
        ("ray._private.parameter", "RayParams", settings),
        ("ray._private.node", "Node", ("ray_params", "head", "shutdown_at_exit", "spawn_reaper")),
        ("ray._private.node", "Node.start_api_server", ("include_dashboard", "raise_on_failure")),
        ("ray._private.node", "Node.start_raylet", ()),
        ("ray._raylet", "persist_port", ()),
        *(("ray._raylet", f"{name}_PORT_NAME", ()) for name in AGENT_PORTS),
    )


def start_bare_node(temp_dir: str) -> str:
    """Start Ray on 127.0.0.1, with its files there, and leave it running: its address."""
    from ray import _raylet
    from ray._private import node, parameter, services

    start = services.start_ray_process

    class BareNode(node.Node):  # type: ignore[misc]
        def start_api_server(self, **_: Any) -> None:
            self._webui_url = ""

        def start_raylet(self, *args: Any, **named: Any) -> None:
            for name in AGENT_PORTS:
                _raylet.persist_port(self._session_dir, self._node_id, getattr(_raylet, f"{name}_PORT_NAME"), NO_PORT)
            super().start_raylet(*args, **named)

    def start_without_agents(command: list[str], *args: Any, **named: Any) -> Any:
        idle = [part.partition("=")[0] + f"={IDLE_COMMAND}" if part.startswith(AGENT_COMMANDS) else part for part in command]
        return start(idle, *args, **named)

    services.start_ray_process = start_without_agents
    params = parameter.RayParams(node_ip_address="127.0.0.1", temp_dir=temp_dir, no_monitor=True, include_log_monitor=False)
    address: str = BareNode(params, head=True, shutdown_at_exit=False, spawn_reaper=False).address
    return address


class Nobody:
    """Stands for an actor's handle: whatever is asked of it, it does nothing."""

    def __getattr__(self, name: str) -> Nobody:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def remote(self, *_: Any, **__: Any) -> None:
        pass


class WholeMachine:
    """What Ray Data's coordinator answers where there is one host and one data set: all of it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        import ray

        self._resources = {host["NodeID"]: dict(host["Resources"]) for host in ray.nodes() if host["Alive"]}

    def request_resources(self, *_: Any, **__: Any) -> None:
        pass

    def cancel_request(self) -> None:
        pass

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return self._resources


@contextmanager
def without_helpers() -> Iterator[None]:
    """Keep Ray Data in this process from starting its helper actors, on a machine that no other job shares."""
    with ExitStack() as restored:
        if works("without_helpers", *((module, name, arguments) for (module, name), arguments in HELPERS.items())):
            instead = (Nobody, Nobody, lambda logical_actor_ids: {}, WholeMachine)
            for (module, name), stand_in in zip(HELPERS, instead, strict=True):
                owner = importlib.import_module(module)
                restored.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, stand_in)
        yield


if __name__ == "__main__":  # python -P ray_internals.py TEMP_DIR RAY ARGUMENT ...: a bare node, or else `RAY ARGUMENT ...`
    if not bare_node_works():
        os.execv(sys.argv[2], sys.argv[2:])
    print(f"--address='{start_bare_node(sys.argv[1])}'")
