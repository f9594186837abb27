"""Whom preflight asks: this host alone, or every host of a Ray cluster, all at once."""

import time
from collections import Counter
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
        self.hosts, self.silent, self.clocks = [read_host(root)], dict[str, Check](), dict[str, Check]()

    def ask(self, name: str, function: Ask, arguments: Arguments, limit: float, boards: int = 0) -> dict[str, Check]:
        return {host: function(*given) for host, given in arguments.items()}


class ClusterHosts:
    """Every host of the cluster that is connected, asked by tasks pinned to its node.

    hosts: those that answered. silent: a failed check for each that did not, by host name. clocks: of each against this one's.
    """

    def __init__(self) -> None:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        shared = Counter(node["NodeManagerHostname"] for node in nodes)
        self._nodes: dict[str, Any] = {}  # by host's name, with the address where several share one
        for node in nodes:
            name = node["NodeManagerHostname"]
            name += f" ({node['NodeManagerAddress']}:{node['NodeManagerPort']})" if shared[name] > 1 else ""
            self._nodes[name] = node
        self.hosts, self.silent = list[Host](), dict[str, Check]()
        for name, host in self.ask("answer", read_host, dict.fromkeys(self._nodes, ()), START_SECONDS).items():
            if isinstance(host, Check):
                self.silent[name] = host
                continue
            resources = self._nodes[name]["Resources"]
            cores, boards = int(resources.get("CPU", 0)), int(resources.get(BOARDS, 0))
            self.hosts.append(replace(host, name=name, cores=cores, ray_boards=boards))
        self.clocks = {host.name: self._clock(host.name) for host in self.hosts}

    def ask(self, name: str, function: Callable[..., Any], arguments: Arguments, limit: float, boards: int = 0) -> dict[str, Any]:
        """Call `function(*arguments[host])` on every host named there, holding so many of its boards: results by host.

        name: of the failed check that stands for an answer that does not come within `limit` seconds.
        """
        answers, deadline, results = {}, time.monotonic() + limit, dict[str, Any]()
        for host, given in arguments.items():
            # No CPUs: a host whose cores are all busy must answer too.
            pinned = ray.remote(lambda given=given: function(*given)).options(
                num_cpus=0,
                resources={BOARDS: boards} if boards else None,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self._nodes[host]["NodeID"], soft=False),
            )
            answers[host] = pinned.remote()
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

    def _clock(self, host: str) -> Check:
        """The best of a few questions: the shorter the round trip, the surer the difference."""
        answers = []
        for _ in range(CLOCK_QUESTIONS):
            before = time.time()
            there = self.ask("clock", time.time, {host: ()}, START_SECONDS)[host]
            after = time.time()
            if isinstance(there, Check):
                return there
            answers.append(((after - before) / 2, there - (before + after) / 2))
        uncertainty, offset = min(answers)
        return clock(offset, uncertainty)


Hosts = ThisHost | ClusterHosts
