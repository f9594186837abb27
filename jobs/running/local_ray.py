"""Ray on this machine for one job: its store, scheduler and workers, without the processes that serve a cluster's operator.

A dashboard, an autoscaler, a log monitor, a metrics agent and Ray Data's three helper actors would cost as much CPU time as the
rest of a short job, and one of them listens on every interface. Ray offers no setting for most of them, so this file reaches
into the release that is pinned; with any other release Ray starts as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import ray
from ray._private import node, services

from jobs.running.workers.forked import KNOWN_RAY, SOCKET_NAME, forked_workers

IDLE_COMMAND = "cat"
"""In place of an agent, without which Ray's scheduler does not start: it ends when the scheduler closes its standard input."""
NO_PORT = -1
"""What an agent without a service of its own writes down as its port."""

_alone = False
_spared: list[Any] = []
"""Patches that are in force until the session ends."""


@contextmanager
def local_ray(home: Path, **settings: Any) -> Iterator[None]:
    """Ray on 127.0.0.1 until the block ends; settings are ray.init's. home: of ray_home, for its files."""
    global _alone
    _alone = ray.__version__.startswith(KNOWN_RAY)
    with patch.object(node, "Node", _JobNode if _alone else node.Node), forked_workers(home / SOCKET_NAME):
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=str(home / "ray"), **settings)
    try:
        yield
    finally:
        _alone = False
        ray.shutdown()
        while _spared:
            _spared.pop().stop()


class _JobNode(node.Node):
    def start_monitor(self) -> None:
        """No autoscaler: this machine is all there is."""

    def start_log_monitor(self) -> None:
        """No log monitor: the job tells what matters itself."""

    def start_api_server(self, **_: Any) -> None:
        """No dashboard."""
        self._webui_url = ""

    def start_raylet(self, *args: Any, **kwargs: Any) -> None:
        """No agents: no metrics are collected, and no task has a runtime environment."""
        for name in ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN", "RUNTIME_ENV_AGENT"):
            port = getattr(ray._raylet, f"{name}_PORT_NAME")
            ray._raylet.persist_port(self._session_dir, self._node_id, port, NO_PORT)
        with patch.object(services, "start_ray_process", _without_agents(services.start_ray_process)):
            super().start_raylet(*args, **kwargs)


def _without_agents(start: Callable[..., Any]) -> Callable[..., Any]:
    agents = ("--dashboard_agent_command=", "--runtime_env_agent_command=")

    def start_without(command: list[str], *args: Any, **kwargs: Any) -> Any:
        named = [part.partition("=")[0] + f"={IDLE_COMMAND}" if part.startswith(agents) else part for part in command]
        return start(named, *args, **kwargs)

    return start_without


def spare_helper_actors() -> None:
    """In a session of local_ray, keep Ray Data from starting its helper actors; elsewhere other jobs may share them.

    They gather statistics for the dashboard, share a cluster out between data sets, and note on which host an actor is.
    """
    if not _alone or _spared:
        return
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler
    from ray.data._internal.execution.operators import actor_pool_map_operator
    from ray.data._internal.stats import _StatsManager

    statistics = ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics")
    _spared.extend(
        [
            patch.object(_StatsManager, "gen_dataset_id_from_stats_actor", staticmethod(lambda: uuid4().hex)),
            *(patch.object(_StatsManager, name, staticmethod(_nothing)) for name in statistics),
            patch.object(rate_based_cluster_autoscaler, "DefaultAutoscalingCoordinator", _WholeMachine),
            patch.object(actor_pool_map_operator, "get_or_create_actor_location_tracker", _NoTracker),
            patch.object(actor_pool_map_operator, "get_actor_locations", _nowhere),
        ]
    )
    for spared in _spared:
        spared.start()


class _WholeMachine:
    """What Ray Data's coordinator answers where there is one host and one data set: all of it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._resources = {host["NodeID"]: dict(host["Resources"]) for host in ray.nodes() if host["Alive"]}

    def request_resources(self, *_: Any, **__: Any) -> None:
        pass

    def cancel_request(self) -> None:
        pass

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return self._resources


class _NoTracker:
    """Takes an actor's note of where it is, and forgets it: an unknown place means the one where the actor was started."""

    @property
    def update_actor_location(self) -> _NoTracker:
        return self

    def remote(self, *_: Any) -> None:
        pass


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _nowhere(_: tuple[str, ...]) -> dict[str, str]:
    return {}
