"""Ray's workers as forks of one process: the same workers as ordinary ones, which stand in where it cannot fork."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.running.workers.forked import start_fork_server
from tests.commands import ROOT
from tests.conftest import ray_head

CLIENT = ROOT / "jobs/running/workers/client.py"

TELL = """
import json, os, random, signal, sys
import numpy
import ray
from jobs.running.session import ray_session

@ray.remote
class Worker:
    def tell(self):
        parent = open(f"/proc/{os.getppid()}/cmdline").read()
        return {
            "forked": "workers/server.py" in parent,
            "server": os.getppid(),
            "id": ray.ObjectRef.from_random().hex(),
            "random": random.random(),
            "numpy": float(numpy.random.random()),
            "directory": os.getcwd(),
            "path": sys.path,
            "files": [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)],
            "variable": os.environ.get("GIVEN"),
            "leads a process group": os.getpgrp() == os.getpid(),
            "children": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
        }

def tell(**options):
    workers = [Worker.options(num_cpus=0, **options).remote() for _ in range(3)]
    return ray.get([worker.tell.remote() for worker in workers])
"""

LOCAL = f"""{TELL}
with ray_session(None):
    told = tell()
    os.kill(told[0]["server"], signal.SIGKILL)
    after = tell()
print(json.dumps([told, after]))
"""

CLUSTER = f"""{TELL}
with ray_session(sys.argv[1]):
    ordinary = tell()
    given = tell(runtime_env={{"env_vars": {{"GIVEN": "yes"}}}})
    setting = tell(runtime_env={{"env_vars": {{"GIVEN": "yes", "RAY_handler_warning_timeout_ms": "2000"}}}})
print(json.dumps([ordinary, given, setting]))
"""


def told_by(script: str, *arguments: str, **environment: str) -> list[list[dict]]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def local() -> list[list[dict]]:
    """What workers of a session of one machine tell of themselves, and what those tell that start when no fork server is left."""
    return told_by(LOCAL)


def test_workers_of_one_machine_are_forked_and_share_no_random_numbers(local: list[list[dict]]) -> None:
    workers = local[0]
    assert all(worker["forked"] for worker in workers)
    for drawn in ("id", "random", "numpy"):
        assert len({worker[drawn] for worker in workers}) == len(workers), drawn


def test_a_forked_worker_has_the_paths_files_and_signals_of_an_ordinary_one(local: list[list[dict]]) -> None:
    forked, ordinary = local[0][0], local[1][0]
    for same in ("directory", "path", "leads a process group", "children"):
        assert forked[same] == ordinary[same], same
    assert [Path(name).name.split("-")[0] for name in forked["files"]] == [
        Path(name).name.split("-")[0] for name in ordinary["files"]
    ]


def test_without_a_fork_server_workers_start_all_the_same(local: list[list[dict]]) -> None:
    assert len(local[1]) == 3
    assert not any(worker["forked"] for worker in local[1])


def test_a_clusters_workers_are_forked_unless_they_need_a_setting_that_ray_reads_when_it_is_loaded(
    tmp_path: Path,
) -> None:
    with ray_head(tmp_path / "home", "--num-cpus=2") as cluster:
        ordinary, given, setting = told_by(CLUSTER, cluster.address, **cluster.environment)
    assert all(worker["forked"] for worker in ordinary + given)
    assert [worker["variable"] for worker in ordinary + given] == [None] * 3 + ["yes"] * 3
    assert [(worker["forked"], worker["variable"]) for worker in setting] == [(False, "yes")] * 3


def test_the_server_ends_with_the_process_it_lives_with_and_its_socket_is_its_owners_alone(tmp_path: Path) -> None:
    for _ in range(2):  # a host that starts again in the session it was in has the directory it had
        lives_with = subprocess.Popen(["sleep", "1000"])
        server = start_fork_server(tmp_path / "socket", lives_with.pid, tmp_path / "log")
        assert (tmp_path / "socket").stat().st_mode & 0o077 == 0
        lives_with.kill()
        lives_with.wait()
        assert server.wait(60) == 0
        assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize("said", [b"", b"\x10", b"\xff\xff\0\0\0\0\0\0{"])
def test_a_request_that_breaks_off_does_not_end_the_server(tmp_path: Path, said: bytes) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os, sys; print(os.getppid(), sys.argv[1], 'ray' in sys.modules, flush=True)")
    server = start_fork_server(tmp_path / "socket", os.getpid(), tmp_path / "log")
    try:
        with socket.socket(socket.AF_UNIX) as broken:
            broken.connect(str(tmp_path / "socket"))
            broken.sendall(said)
        asked = [sys.executable, "-I", "-S", str(CLIENT), str(tmp_path / "socket"), str(worker), "argument"]
        out = tmp_path / "out"
        with out.open("w") as file:
            subprocess.run(asked, stdout=file, check=True, timeout=60)
        deadline = time.monotonic() + 30
        while not out.read_text().endswith("\n") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert out.read_text() == f"{server.pid} argument True\n"
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def test_where_no_server_answers_the_client_becomes_the_worker(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os, sys; print(os.getpid(), sys.argv[1:])")
    asked = [sys.executable, "-I", "-S", str(CLIENT), str(tmp_path / "no-socket"), str(worker), "one", "two words"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as client:
        out, _ = client.communicate(timeout=60)
    assert out == f"{client.pid} ['one', 'two words']\n"
