"""Whom preflight asks: this host alone, or every host of a Ray cluster, all at once."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.checks import Check, Host, clock
from cluster.probe import read_host
from jobs.pipeline.placement import BOARDS

START_SECONDS = 120.0  # Limit for a host's first answer: Ray starts a worker there, which imports the project

CLOCK_QUESTIONS = 5

Ask = Callable[..., Check]
Arguments = Mapping[str, tuple[Any, ...]]  # What to call a function with, by host


class ThisHost:
    """This host alone, without Ray; its interface is ClusterHosts'."""

    def __init__(self, root: Path) -> None:
        self.hosts = [read_host(root)]
        self.silent: dict[str, Check] = {}

    def ask(self, name: str, function: Ask, arguments: Arguments, limit: float, boards: int = 0) -> dict[str, Check]:
        return {host: function(*given) for host, given in arguments.items()}

    def clocks(self) -> dict[str, Check]:
        return {}


class ClusterHosts:
    """Every host of the cluster that is connected, asked by tasks pinned to its node.

    hosts: those that answered. silent: a failed check for each that did not, by host name.
    """

    def __init__(self) -> None:
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        self._nodes = {name: key for key, name in _unique_names(nodes).items()}
        answers = {name: self._start(name, read_host, ()) for name in self._nodes}
        self.hosts: list[Host] = []
        self.silent: dict[str, Check] = {}
        for name, host in self._collect(answers, "answer", START_SECONDS).items():
            if isinstance(host, Check):
                self.silent[name] = host
                continue
            resources = nodes[self._nodes[name]]["Resources"]
            cores, boards = int(resources.get("CPU", 0)), int(resources.get(BOARDS, 0))
            self.hosts.append(replace(host, name=name, cores=cores, ray_boards=boards))

    def ask(self, name: str, function: Ask, arguments: Arguments, limit: float, boards: int = 0) -> dict[str, Check]:
        """Call `function(*arguments[host])` on every host named there, holding so many of its boards.

        name: of the check that fails where no answer comes within `limit` seconds.
        """
        answers = {host: self._start(host, function, given, boards) for host, given in arguments.items()}
        return self._collect(answers, name, limit)

    def clocks(self) -> dict[str, Check]:
        """Every host's clock against this one's."""
        return {host.name: self._clock(host.name) for host in self.hosts}

    def _clock(self, host: str) -> Check:
        """The best of a few questions: the shorter the round trip, the surer the difference."""
        answers = []
        for _ in range(CLOCK_QUESTIONS):
            before = time.time()
            there = self._collect({host: self._start(host, time.time, ())}, "clock", START_SECONDS)[host]
            after = time.time()
            if isinstance(there, Check):
                return there
            answers.append(((after - before) / 2, there - (before + after) / 2))
        uncertainty, offset = min(answers)
        return clock(offset, uncertainty)

    def _start(self, host: str, function: Callable[..., Any], arguments: tuple[Any, ...], boards: int = 0) -> Any:
        # No CPUs: a host whose cores are all busy must answer too.
        pinned = ray.remote(lambda: function(*arguments)).options(
            num_cpus=0,
            resources={BOARDS: boards} if boards else None,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._nodes[host], soft=False),
        )
        return pinned.remote()

    def _collect(self, answers: Mapping[str, Any], name: str, limit: float) -> dict[str, Any]:
        """Results by host, a failed check in place of each that did not come."""
        deadline = time.monotonic() + limit
        results: dict[str, Any] = {}
        for host, answer in answers.items():
            try:
                results[host] = ray.get(answer, timeout=max(deadline - time.monotonic(), 0.1))
            except ray.exceptions.GetTimeoutError:
                ray.cancel(answer, force=True)
                results[host] = Check(name, "fail", f"no answer for {limit:g} s", "see `ray status` and the host's load")
            except ray.exceptions.RayError as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
                fix = "keep the project at one path on every host, with the packages of cluster/install.sh"
                results[host] = Check(name, "fail", reason, fix)
        return results


def _unique_names(nodes: Mapping[str, Any]) -> dict[str, str]:
    """Host names by node, with the address where several share one."""
    names = [node["NodeManagerHostname"] for node in nodes.values()]
    return {
        key: name if names.count(name) == 1 else f"{name} ({nodes[key]['NodeManagerAddress']}:{nodes[key]['NodeManagerPort']})"
        for key, name in zip(nodes, names, strict=True)
    }


Hosts = ThisHost | ClusterHosts
