"""A Ray cluster of the tests' own, and commands run as a user runs them."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Ray reads these once, when it is first used in a process; the tests' clusters and the tests themselves share them.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@dataclass(frozen=True)
class RayCluster:
    """A head node in processes of its own; `environment` is what a client needs besides the address."""

    address: str
    environment: dict[str, str] = field(repr=False)


def free_port() -> int:
    """A free TCP port outside Ray's worker range, 10002-19999."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            if not 10002 <= (port := probe.getsockname()[1]) <= 19999:
                return port


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One head with 2 CPUs for the whole session; starting Ray is most of a short job's time."""
    with ray_head(tmp_path_factory.mktemp("ray-home"), "--num-cpus=2") as cluster:
        yield cluster


@contextmanager
def ray_head(home: Path, *resources: str) -> Iterator[RayCluster]:
    """A head node with these arguments of `ray start`, ended at the end of the block."""
    environment = {
        **os.environ,
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_idle_worker_killing_time_threshold_ms": "600000",  # as cluster/start-node.sh sets it
    }
    port = free_port()
    start = [sys.executable, "-m", "cluster.start_ray", "--head", "--block", f"--port={port}"]  # as start-node.sh does
    start += ["--node-ip-address=127.0.0.1", "--object-store-memory=1500000000"]
    # No test of a job needs what serves a cluster's operator.
    start += ["--include-dashboard=false", "--include-log-monitor=false", "--no-monitor"]
    head = subprocess.Popen(
        [*start, *resources],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert head.stdout is not None
        for line in head.stdout:
            if "--block" in line or "Ray runtime started" in line:
                break
        assert head.poll() is None, "the Ray head ended while starting"
        yield RayCluster(f"127.0.0.1:{port}", environment)
    finally:
        # Everything Ray started is in the head's process group; `ray stop` would end other clusters of this machine too.
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal_number)
            with suppress(subprocess.TimeoutExpired):
                head.wait(3)


@pytest.fixture(scope="session")
def mesh_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One host with the boards of four meshes."""
    with ray_head(tmp_path_factory.mktemp("mesh-home"), "--num-cpus=4", '--resources={"TTNPU": 16}') as cluster:
        yield cluster


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def run_module(*arguments: str, environment: dict[str, str] | None = None, timeout: float = 200, cwd: Path = ROOT) -> Finished:
    """`python -m <arguments>` from the project's root."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)
