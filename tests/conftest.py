"""Ray clusters of the tests' own."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# Ray reads these once, when it is first used in a process; the tests' clusters and the tests themselves share them.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.update(RAY_idle_worker_killing_time_threshold_ms="600000")  # as cluster/start-node.sh sets it


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
    """One host with 2 CPUs for the whole session; starting Ray is most of a short job's time."""
    with ray_head(tmp_path_factory.mktemp("ray-home"), "--num-cpus=2") as cluster:
        yield cluster


@contextmanager
def ray_head(home: Path, *resources: str) -> Iterator[RayCluster]:
    """A head node of `ray start` with these arguments, ended at the end of the block."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    port = free_port()
    start = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"]
    start += ["--node-ip-address=127.0.0.1", "--object-store-memory=1500000000", "--dashboard-agent-listen-port=0"]
    # No test of a job needs what serves a cluster's operator.
    start += ["--include-dashboard=false", "--include-log-monitor=false", "--no-monitor"]
    with _running([*start, *resources], environment) as head:
        assert head.stdout is not None
        for line in head.stdout:
            if "--block" in line or "Ray runtime started" in line:
                break
        assert head.poll() is None, "the Ray head ended while starting"
        yield RayCluster(f"127.0.0.1:{port}", environment)


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process and all that it starts, until the end of the block."""
    process = subprocess.Popen(
        command,
        cwd="/",  # a cluster knows nothing of this project
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # Everything Ray started is in the head's process group; `ray stop` would end other clusters of this machine too.
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal_number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(3)
