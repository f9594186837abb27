"""Ray on one machine for one job: what it starts, who may look at it, and that nothing is left, however the job ends."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import waiting
from tests.commands import ROOT, run_line
from tests.faults.running import command, committed, prediction_files, wait_until, write_shards
from tests.processes import processes

LOOK = """
import json, os, stat, sys
from pathlib import Path
from jobs.running.session import ray_session
with ray_session(None, needed=("ray.data",)):
    import ray
    from ray.data import ActorPoolStrategy
    from ray.util import list_named_actors
    class Same:
        def __call__(self, batch):
            return batch
    rows = ray.data.range(10).map_batches(Same, compute=ActorPoolStrategy(size=1)).take_all()
    here = next(node for node in ray.nodes())
    home = Path(here["RayletSocketName"]).parents[3]
    started = [p for p in Path("/proc").glob("[0-9]*") if str(home) in (p / "cmdline").read_text()]
    told = {
        "rows": len(rows), "home": str(home), "mode": stat.S_IMODE(home.stat().st_mode), "socket": len(here["RayletSocketName"]),
        "own_session": all(os.getsid(int(p.name)) != os.getsid(0) for p in started if int(p.name) != os.getpid()),
        "processes": " ".join((p / "cmdline").read_text() for p in started), "actors": list_named_actors(all_namespaces=True),
    }
    print(json.dumps(told), file=sys.stderr, flush=True)
    if sys.argv[1:]:
        sys.stdin.read()
"""
ALONE = ""
NETWORKED = """
ip link add eth0 type veth peer name eth1
ip address add 192.0.2.2/24 dev eth0
ip link set eth0 up
ip link set eth1 up
ip route add default via 192.0.2.1
"""
"""Commands that give the machine an address besides 127.0.0.1, which Ray would rather take."""
PLAIN = {"LOUDBOX_PLAIN_RAY": "1"}


def environment(home: Path, **more: str) -> dict[str, str]:
    """Without any of Ray's variables, and with a TMPDIR that is too long for a socket."""
    deep = home / ("d" * 64)
    deep.mkdir(exist_ok=True)
    return {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(deep), "PYTHONPATH": str(ROOT), **more}


def left_of(home: str) -> list[str | int]:
    """Processes that belong to a session with its files there, and the files."""
    return [*([home] if Path(home).exists() else []), *processes(re.escape(home))]


@pytest.mark.parametrize("network", [ALONE, NETWORKED], ids=["alone", "networked"])
@pytest.mark.parametrize("more", [{}, pytest.param(PLAIN, marks=pytest.mark.slow)], ids=["as it is", "plain"])
def test_a_session_is_this_accounts_alone_and_is_gone_with_all_its_processes_when_it_ends(
    tmp_path: Path, more: dict[str, str], network: str
) -> None:
    command = ["unshare", "-n", "sh", "-ec", f'ip link set lo up; {network} exec "$@"', "job", sys.executable, "-c", LOOK]
    done = run_line(*command, environment=environment(tmp_path, **more)).succeeded()
    told = json.loads(done.stderr)  # and nothing else is said
    assert (told["rows"], told["mode"], told["own_session"], done.stdout) == (10, 0o700, True, "")
    assert told["socket"] < 100
    assert "raylet" in told["processes"]
    assert bool(told["actors"]) is bool(more)  # Ray Data's helpers
    assert left_of(told["home"]) == []


@pytest.mark.parametrize("killed", ["job", "keeper"])
def test_nothing_is_left_of_a_job_that_is_killed(tmp_path: Path, killed: str) -> None:
    command = [sys.executable, "-c", LOOK, "stay"]
    job = subprocess.Popen(command, env=environment(tmp_path), cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stderr
    home = json.loads(job.stderr.readline())["home"]
    assert left_of(home)
    [keeper] = processes(rf"local_ray\.py.*{re.escape(home)}")
    os.kill(job.pid if killed == "job" else keeper, signal.SIGKILL)
    job.communicate()
    waiting.wait_until(lambda: left_of(home) == [], 30)


def test_where_ray_does_not_start_the_line_names_the_file_that_says_why(tmp_path: Path) -> None:
    job = [sys.executable, "-m", "jobs.synthetic", "--out", str(tmp_path / "out"), "--model", "jobs/sample/model"]
    done = run_line(*job, environment=environment(tmp_path, **PLAIN, RAY_START_HOOK="no.such.hook"))
    assert done.code == 1, done.stderr
    line, _, log = done.stderr.strip().rpartition("; Ray's log: ")
    told = "perhaps for what the environment says in RAY_START_HOOK; unset what is not needed"
    assert line == f"error: Ray does not start on this machine; {told}"
    assert "No module named 'no'" in Path(log).read_text()
    Path(log).unlink()


@pytest.mark.slow
def test_sigterm_to_the_jobs_process_group_drains_it_since_ray_is_in_another(tmp_path: Path) -> None:
    out, given = tmp_path / "out", {"env": environment(tmp_path), "cwd": ROOT, "start_new_session": True}
    job = [sys.executable, *command(write_shards(tmp_path / "data", 12), out, "compute=500ms")]
    started = subprocess.Popen(job, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **given)  # type: ignore[call-overload]
    wait_until(lambda: len(prediction_files(out)) >= 1, started)
    os.killpg(started.pid, signal.SIGTERM)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 143, said
    assert "add --resume to go on" in said
    assert "has ended" not in said
    assert 1 <= len(committed(out)) < 12
    assert json.loads((out / "manifest.json").read_text())["attempts"][0]["state"] == "stopped"
