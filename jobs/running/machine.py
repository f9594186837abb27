"""What a process may use of its machine: the least of the hardware, its control groups and its limits.

As a program, with the standard library alone, it prints `CPUS STORE_BYTES` for cluster/start-node.sh, and what is too little.
"""

import os
import re
import resource
import shutil
import socket
import sys
from pathlib import Path

GIB = 2**30
FILES_NEEDED, FILES_WANTED = 1024, 65536
THREADS_NEEDED, THREADS_PER_CPU = 300, 100  # Of Ray's servers and a driver, and of the workers of a core
ADDRESSES_NEEDED = 64 * GIB  # Ray maps its object store and its threads' stacks into every process
MEMORY_NEEDED = 512  # MiB of Ray's servers, a driver and a worker
ROOM_NEEDED, INODES_NEEDED = 256 * 2**20, 500  # Bytes and files for Ray's logs and sockets
LEAST_STORE = 80 * 2**20  # Ray takes no less
PLACE = "/tmp"  # Where Ray's files lie: their paths must be short


def cpus(root: Path = Path("/")) -> int:
    """Cores that this process may use."""
    limits = [each.split() for each in _limits(root, "cpu", "cpu.max", "")]
    old = _limits(root, "cpu", "", "cpu.cfs_quota_us"), _limits(root, "cpu", "", "cpu.cfs_period_us")
    limits += [[quota, period] for quota, period in zip(*old, strict=False)]
    shares = [int(quota) / int(period) for quota, period in limits if quota.isdigit()]  # else it says max, or -1
    return max(1, int(min([len(os.sched_getaffinity(0)), *shares])))


def memory_bytes(root: Path = Path("/")) -> int:
    """Of the machine, or of the control group that allows less."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", text(root / "proc/meminfo"), re.MULTILINE)
    limits = [int(each) for each in _limits(root, "memory", "memory.max", "memory.limit_in_bytes") if each.isdigit()]
    return min([int(total[1]) * 1024 if total else 0, *limits])


def memory_used(root: Path = Path("/")) -> float:
    """The share of it that is in use, as Ray counts: without the page cache that can be given back."""
    sizes = dict(re.findall(r"(Mem\w+):\s+(\d+)", text(root / "proc/meminfo")))
    shares = [1 - int(sizes["MemAvailable"]) / int(sizes["MemTotal"])] if "MemAvailable" in sizes else []
    files = ("memory.max", "memory.limit_in_bytes"), ("memory.current", "memory.usage_in_bytes"), ("memory.stat", "memory.stat")
    for limit, used, stat in zip(*(_limits(root, "memory", *names) for names in files), strict=False):
        cache = re.search(r"^inactive_file (\d+)", stat, re.MULTILINE)
        if limit.isdigit():
            shares.append((int(used) - int(cache[1] if cache else 0)) / int(limit))
    return max(shares, default=0.0)


def shm_bytes(root: Path = Path("/")) -> int:
    """The size of /dev/shm, where Ray's object store lies."""
    return shutil.disk_usage(root / "dev/shm").total if (root / "dev/shm").is_dir() else 0


def object_store_bytes() -> int:
    """A quarter of the memory, at most 32 GiB (400 chunks); it must fit into /dev/shm, or Ray would keep it on disk."""
    return max(min(memory_bytes() // 4, shm_bytes() * 8 // 10, 32 * GIB), LEAST_STORE)


def raise_limits() -> None:
    """Let this process and those it starts have as many open files and threads as they are allowed."""
    for kind, wanted in ((resource.RLIMIT_NOFILE, FILES_WANTED), (resource.RLIMIT_NPROC, resource.RLIM_INFINITY)):
        soft, hard = resource.getrlimit(kind)
        most = hard if wanted == resource.RLIM_INFINITY else wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft != most:
            resource.setrlimit(kind, (most if most == resource.RLIM_INFINITY else max(soft, most), hard))


def too_little(root: Path = Path("/")) -> list[str]:
    """What Ray could not run with, each in a line with the fix."""
    told = []
    files, addresses, size, threads = (
        resource.getrlimit(kind)[1 if kind == resource.RLIMIT_NOFILE else 0]
        for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC)
    )
    needed = THREADS_NEEDED + THREADS_PER_CPU * cpus(root)
    if 0 <= files < FILES_NEEDED:
        told.append(f"{files:,} open files are allowed, {FILES_NEEDED:,} are needed; raise `ulimit -n`")
    if 0 <= addresses < ADDRESSES_NEEDED:
        told.append(f"{addresses / GIB:.0f} GiB of addresses are allowed, {ADDRESSES_NEEDED // GIB} needed; unset `ulimit -v`")
    if 0 <= size < object_store_bytes():
        told.append(f"files of {size // 2**20:,} MiB are allowed, {object_store_bytes() // 2**20:,} needed; unset `ulimit -f`")
    if 0 < (memory := memory_bytes(root) // 2**20) < MEMORY_NEEDED:
        told.append(f"{memory} MiB of memory are allowed, {MEMORY_NEEDED} are needed; raise the control group's limit")
    if os.geteuid() and 0 <= threads < needed:
        told.append(f"{threads:,} threads are allowed, {needed:,} are needed; raise `ulimit -u`")
    for most in _limits(root, "pids", "pids.max", "pids.max"):
        if most.isdigit() and int(most) < needed:
            told.append(f"the control group allows {most} threads, {needed:,} are needed; raise TasksMax, or the pod's limit")
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), 1).close()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        told.append(f"127.0.0.1 cannot be reached ({why}); `ip link set lo up`, `ip address add 127.0.0.1/8 dev lo`")
    return told


def place_for_files() -> str:
    """The directory for Ray's files; raises OSError, in a line, where they may not lie there or have no room."""
    if not os.access(PLACE, os.W_OK | os.X_OK):
        raise OSError(f"{PLACE} may not be written to, and Ray keeps its files there; let this account write there")
    free, there = shutil.disk_usage(PLACE).free, os.statvfs(PLACE)
    if free < ROOM_NEEDED or (there.f_files > 0 and there.f_favail < INODES_NEEDED):
        has = f"{free // 2**20} MiB" + (f" and {there.f_favail} inodes" if there.f_files else "")
        raise OSError(f"{PLACE} has {has} free; Ray needs {ROOM_NEEDED // 2**20} MiB and {INODES_NEEDED} inodes; make room there")
    return PLACE


def _limits(root: Path, controller: str, name: str, old_name: str) -> list[str]:
    """What the control groups that this process is in say, the innermost first. old_name: of the file in version 1."""
    found: list[str] = []
    for line in text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and name:
            top, file = root / "sys/fs/cgroup", name
        elif controller in controllers.split(",") and old_name:
            top, file = root / "sys/fs/cgroup" / controller, old_name
        else:
            continue
        inner = top / path.lstrip("/")
        groups = [inner, *inner.parents]
        found += filter(None, (text(group / file) for group in groups[: groups.index(top) + 1]))
    return found


def text(path: Path) -> str:
    """What a small file says, without white space around it; nothing where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    raise_limits()
    for line in too_little():
        print(line, file=sys.stderr)
    print(cpus(), object_store_bytes())
    sys.exit(bool(too_little()))
