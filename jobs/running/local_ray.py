"""Ray on this machine for one job: `ray start` in a process session of its own, which ends with the job, however that ends.

As a program, `python -I -S local_ray.py HOME COMMAND ...` is the keeper. It starts Ray and tells its address on standard
output. When its standard input ends, as it does when the job is killed, it ends every process of Ray's and deletes their files.
A signal to the job's process group reaches neither the keeper nor Ray.
"""

import atexit
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOG_NAME = "ray.log"
FLAGS = (
    "--head",
    "--node-ip-address=127.0.0.1",  # else its ports listen on every interface
    "--port=0",  # any that is free, as the next one
    "--dashboard-agent-listen-port=0",
    "--disable-usage-stats",
    # No dashboard, copies of logs or autoscaler, which serve a cluster's operator.
    "--include-dashboard=false",
    "--include-log-monitor=false",
    "--no-monitor",
)

SETTINGS = {
    # Ray ends workers that are idle for a second where there are more of them than cores, only to start them again; a decode
    # task may have to wait minutes for a slow device.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    # Its scheduler tries to reach its object store before that listens, in half of all starts, and then waits this long: a second
    # unless told otherwise. Ten seconds of attempts in all, as without this.
    "RAY_raylet_client_connect_timeout_milliseconds": "20",
    "RAY_raylet_client_num_connect_attempts": "500",
    # It would start a worker for each core, before it is known which workers are needed.
    "RAY_prestart_worker_first_driver": "false",
}
"""Environment variables of Ray's processes on this machine."""

LOOPBACK = "[::ffff:127.0.0.1]"
"""127.0.0.1 for ray.init, which takes that itself, and localhost, for this machine's address on its network."""

GRACE_SECONDS = 2.0  # What workers may take to end by themselves: one may have a mesh to close
KILL_SECONDS = 10.0


@contextmanager
def local_ray(home: Path) -> Iterator[Callable[[], str | None]]:
    """Start Ray on 127.0.0.1, until the block ends: a function that waits for Ray's address; None where it does not start.

    home: a directory for Ray's files, deleted with Ray; LOG_NAME in it is its log. Its path must be short, as /tmp/loudbox-1 is:
    that of a socket in it may have 107 bytes.
    Ray's processes end in the background; the interpreter waits for them when it exits.
    """
    from jobs.pipeline import ray_internals  # here: the keeper has the standard library alone
    from jobs.running import machine

    usable = {"CPU": machine.cpus(), "object_store_memory": machine.object_store_bytes()}  # Ray looks at the whole machine
    ray, files = str(Path(sysconfig.get_path("scripts")) / "ray"), str(home / "ray")
    start = [sys.executable, "-P", ray_internals.__file__, files, ray, "start", *FLAGS, f"--temp-dir={files}"]
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(home), *start],
        env={"RAY_OVERRIDE_RESOURCES": json.dumps(usable), **os.environ, **SETTINGS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    atexit.register(keeper.wait)
    assert keeper.stdin
    assert keeper.stdout
    told = keeper.stdout
    try:
        yield lambda: told.readline().strip() or None
    finally:
        keeper.stdin.close()
        if keeper.poll() is not None:  # killed: its work is left
            end_session(keeper.pid, home)


def keep(home: Path, command: list[str]) -> None:
    """The keeper's work, see above."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which Ray's processes would inherit
    log = home / LOG_NAME
    with log.open("ab") as output:
        starting = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    select.select([sys.stdin, os.pidfd_open(starting.pid)], [], [])
    if starting.poll() is not None:  # else the job has ended first
        address = re.search(r"--address='([\d.:]+)'", log.read_text(errors="replace"))
        with suppress(BrokenPipeError):
            print(address[1].replace("127.0.0.1", LOOPBACK) if starting.returncode == 0 and address else "", flush=True)
    sys.stdin.read()
    end_session(os.getpid(), home)


def end_session(keeper: int, home: Path) -> None:
    """End all that Ray started, workers first by themselves: the job has left Ray, which has told them to. Delete their files."""
    limit = time.monotonic() + GRACE_SECONDS
    while any(pid == group for pid, group in session_processes(keeper)) and time.monotonic() < limit:
        time.sleep(0.02)
    limit = time.monotonic() + KILL_SECONDS
    while (processes := session_processes(keeper)) and time.monotonic() < limit:
        for pid, _ in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(home, ignore_errors=True)


def session_processes(keeper: int) -> list[tuple[int, int]]:
    """Process and group ids of the others in its session. Ray's workers lead groups of their own, its servers do not."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, group, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == keeper != int(entry.name) and state not in "ZX":
                found.append((int(entry.name), int(group)))
    return found


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2:])
