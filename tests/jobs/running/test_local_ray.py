"""Ray on one machine for one job: what it starts, who may look at it, and what is left when it ends."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.commands import ROOT

LOOK = """
import json, os, stat, subprocess, sys
from pathlib import Path
import ray
from jobs.running.session import ray_session
from jobs.running.local_ray import spare_helper_actors
with ray_session(None):
    import ray.data
    from ray.data import ActorPoolStrategy
    spare_helper_actors()
    ray.data.DataContext.get_current().enable_progress_bars = False
    class Same:
        def __call__(self, batch):
            return batch
    rows = ray.data.range(10).map_batches(Same, compute=ActorPoolStrategy(size=1)).take_all()
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    home = session.parents[1]
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
    mine = [line for line in processes if str(home) in line]
    ports = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True).stdout
    from ray.util import list_named_actors
    told = {
        "rows": len(rows), "processes": mine, "actors": list_named_actors(all_namespaces=True),
        "mode": stat.S_IMODE(home.stat().st_mode), "socket": len(str(session / "sockets" / "plasma_store")),
    }
from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler as rate
told["restored"] = rate.DefaultAutoscalingCoordinator.__name__
told["left"] = home.exists()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a process sees of its own session, with a TMPDIR too long for a socket."""
    deep = tmp_path_factory.mktemp("deep") / ("d" * 64)
    deep.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(deep), "TMPDIR": str(deep), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_process_serves_an_operator_and_no_actor_another_job(told: dict) -> None:
    assert told["rows"] == 10
    running = " ".join(told["processes"])
    assert "raylet" in running
    assert "gcs_server" in running
    for unneeded in ("dashboard.py", "agent.py", "monitor.py", "log_monitor.py", "runtime_env"):
        assert not [line for line in told["processes"] if f"/{unneeded}" in line.split(" --")[0]]
    assert told["actors"] == []


def test_its_files_are_this_accounts_alone_short_to_name_and_gone_at_the_end(told: dict) -> None:
    assert told["mode"] == 0o700
    assert told["socket"] < 100
    assert not told["left"]


def test_ray_data_is_itself_again_for_the_next_cluster(told: dict) -> None:
    assert told["restored"] == "DefaultAutoscalingCoordinator"
