"""A machine as a process sees it: control groups, limits and directories, for Ray here, preflight and start-node.sh alike."""

import shlex
import sys
from pathlib import Path

import pytest

from jobs.running import machine
from tests.commands import run_line

SESSION = """
import os
os.geteuid = lambda: 1000  # root may have more threads than its limit
from jobs.running.command import run
from jobs.running.session import ray_session
def main():
    with ray_session(None):
        return 0
run(main)
"""


def host(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, "proc/meminfo": "MemTotal: 67108864 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "cpus", "gib", "threads"),
    [
        ("0::/\n", {}, None, 64, None),
        ("0::/a.slice/b\n", {"a.slice/memory.max": "2147483648\n", "a.slice/b/memory.max": "max\n"}, None, 2, None),
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n", "a/cpu.max": "max 100000\n", "a/b/pids.max": "100\n"}, 1, 64, "100"),
        ("0::/not/seen/here\n", {"memory.max": "4294967296\n"}, None, 4, None),
        (
            "4:memory:/x\n2:cpu,cpuacct:/x\n",
            {
                "memory/x/memory.limit_in_bytes": "3221225472",
                "cpu/x/cpu.cfs_quota_us": "50000",
                "cpu/x/cpu.cfs_period_us": "100000",
            },
            1,
            3,
            None,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None, 64, None),
    ],
)
def test_the_least_of_the_machine_and_its_control_groups_counts(
    tmp_path: Path, groups: str, files: dict[str, str], cpus: int | None, gib: int, threads: str | None
) -> None:
    root = host(tmp_path, groups, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert machine.memory_bytes(root) == gib * machine.GIB
    assert machine.cpus(root) == (cpus or machine.cpus(tmp_path / "nowhere"))
    words = " ".join(machine.too_little(root)).split()
    assert threads is None or threads in words


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("prlimit --nofile=256:256", "256 open files are allowed"),
        ("prlimit --as=8589934592", "8 GiB of addresses are allowed"),
        ("prlimit --nproc=150:150", "150 threads are allowed"),
        ("prlimit --fsize=1048576", "files of 1 MiB are allowed"),
        ("unshare -n", "127.0.0.1 cannot be reached"),
    ],
)
def test_where_ray_could_not_run_is_told_before_anything_starts(limit: str, told: str) -> None:
    done = run_line(*limit.split(), sys.executable, "-c", SESSION, environment={})
    assert (done.code, len(done.stderr.splitlines()), told in done.stderr) == (2, 1, True), done.stderr


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("size=300m", ""),
        ("size=1m", "/tmp has 1 MiB and "),
        ("nr_inodes=100", "make room there"),
        ("ro", "/tmp may not be written to"),
    ],
)
def test_rays_files_need_room_and_leave_to_write(how: str, told: str) -> None:
    look = shlex.join([sys.executable, "-c", "from jobs.running.machine import *; print(place_for_files())"])
    done = run_line("unshare", "-m", "sh", "-c", f"mount -t tmpfs -o {how} none /tmp && {look}")
    assert (done.stdout, told in done.stderr) == ("" if told else "/tmp\n", True)


@pytest.mark.parametrize(
    ("files", "used"),
    [
        ({}, 0.75),
        ({"memory.max": "max", "memory.current": "9", "memory.stat": "inactive_file 1"}, 0.75),
        ({"memory.max": "1000", "memory.current": "990", "memory.stat": "anon 900\ninactive_file 50\n"}, 0.94),
    ],
)
def test_memory_in_use_is_counted_as_ray_does(tmp_path: Path, files: dict[str, str], used: float) -> None:
    meminfo = {"proc/meminfo": "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"}
    root = host(tmp_path, "0::/a\n", meminfo | {f"sys/fs/cgroup/a/{name}": text for name, text in files.items()})
    assert machine.memory_used(root) == pytest.approx(used)
