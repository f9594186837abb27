"""The only place that reaches past Ray's public interface. LOUDBOX_PLAIN_RAY=1 turns all of it off, and everything still works.

- start_bare_node: Ray on one machine without its client server, dashboard and agents. Else `ray start` starts all of them.
- without_helpers: Ray Data without its three helper actors, on one machine. Else each is one more process.
- draining_nodes: which hosts are being drained (`ray drain-node`). Else a drained host is handled like one that is lost.

Each looks for the attributes and arguments that it needs. Where Ray lacks one it is off, and a line in the log says so.
jobs/pipeline/README.md says what each saves.
"""

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

PLAIN_RAY = "LOUDBOX_PLAIN_RAY"
LOG = logging.getLogger("ray.loudbox")
IDLE_COMMAND = "cat"
"""In place of an agent, without which Ray's scheduler does not start: it ends when the scheduler closes its standard input."""
AGENT_COMMANDS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
AGENT_PORTS = ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN", "RUNTIME_ENV_AGENT")
NO_PORT = -1  # what an agent without a service writes down
_POOL = "ray.data._internal.execution.operators.actor_pool_map_operator"
_AUTOSCALER = "ray.data._internal.cluster_autoscaler.rate_based_cluster_autoscaler"
HELPERS: dict[tuple[str, str], tuple[str, ...]] = {  # where Ray Data finds what is replaced: arguments it takes
    ("ray.data._internal.stats", "get_or_create_stats_actor"): (),
    (_POOL, "get_or_create_actor_location_tracker"): (),
    (_POOL, "get_actor_locations"): ("logical_actor_ids",),
    (_AUTOSCALER, "DefaultAutoscalingCoordinator"): ("requester_id", "subcluster_selector"),
}


def works(what: str, *needed: tuple[str, str, tuple[str, ...]]) -> bool:
    """Whether Ray has all that is needed, (module, attribute, arguments), and nothing turns it off."""
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
    return lambda: set(importlib.import_module("ray._private.state").state.get_draining_nodes())


def bare_node_works() -> bool:
    """Whether `start_bare_node` can be used."""
    return works(
        "start_bare_node",
        ("ray._private.services", "start_ray_process", ("command",)),
        ("ray._private.parameter", "RayParams", ("node_ip_address", "temp_dir", "no_monitor", "include_log_monitor")),
        ("ray._private.node", "Node", ("ray_params", "head", "shutdown_at_exit", "spawn_reaper")),
        ("ray._private.node", "Node.start_api_server", ("include_dashboard", "raise_on_failure")),
        ("ray._private.node", "Node.start_raylet", ()),
        ("ray._raylet", "persist_port", ()),
        *(("ray._raylet", f"{name}_PORT_NAME", ()) for name in AGENT_PORTS),
    )


def start_bare_node(temp_dir: str) -> str:
    """Start Ray on 127.0.0.1, with its files there, and leave it running: its address."""
    from ray._private import node, parameter, services

    raylet: Any = importlib.import_module("ray._raylet")
    start = services.start_ray_process

    class BareNode(node.Node):
        def start_api_server(self, **_: Any) -> None:
            self._webui_url = ""

        def start_raylet(self, *args: Any, **named: Any) -> None:
            for name in AGENT_PORTS:
                raylet.persist_port(self._session_dir, self._node_id, getattr(raylet, f"{name}_PORT_NAME"), NO_PORT)
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

    def __getattr__(self, name: str) -> Self:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def remote(self, *_: Any, **__: Any) -> None:
        pass


class WholeMachine:
    """What Ray Data's coordinator answers where there is one host and one data set: all of it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        import ray

        resources = {host["NodeID"]: dict(host["Resources"]) for host in ray.nodes() if host["Alive"]}
        self.get_reserved_resources = lambda: resources
        self.request_resources = self.cancel_request = lambda *_, **__: None


def helpers_work() -> bool:
    """Whether `without_helpers` does anything."""
    return works("without_helpers", *((module, name, arguments) for (module, name), arguments in HELPERS.items()))


@contextmanager
def without_helpers() -> Iterator[None]:
    """Keep Ray Data in this process from starting its helper actors, on a machine that no other job shares."""
    with ExitStack() as restored:
        if helpers_work():
            for (module, name), stand_in in zip(HELPERS, (Nobody, Nobody, lambda ids: {}, WholeMachine), strict=True):
                owner = importlib.import_module(module)
                restored.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, stand_in)
        yield


if __name__ == "__main__":  # python -P ray_internals.py TEMP_DIR RAY ARGUMENT ...: a bare node, or else `RAY ARGUMENT ...`
    if not bare_node_works():
        os.execv(sys.argv[2], sys.argv[2:])
    print(f"--address='{start_bare_node(sys.argv[1])}'")
