"""Machines in miniature: process trees in namespaces of their own, and the switch that joins them.

Nothing here has a name the rest of the machine can see: namespaces, links and mounts belong to processes and end with
them, and every one of those processes ends when its standard input does. So nothing outlives its creator, however
that ends.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

STEP_SECONDS = 20.0  # Limit for one step of setting up or tearing down; each takes milliseconds on an idle machine

# The switch outlives the machines, so it also removes the directory they share.
_SWITCH = """
set -e
ip link add name bridge type bridge
ip link set bridge up
echo ready $$
read -r _ || true
rm -rf --one-file-system -- "$1"
"""

# The process id must be read from the outer /proc, before the inner one covers it.
_MACHINE = """
set -e
read -r pid _ < /proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o "size=$3" tmpfs /dev/shm
mount -t tmpfs -o size=2g tmpfs "$2/ray"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/resolv.conf" /etc/resolv.conf
echo "$1" > /proc/sys/kernel/hostname
echo "ready $pid"
read -r _ || true
"""

# A LoudBox's /dev as the driver leaves it.
BOARDS = """
set -e
mkdir -p "$1"
mount -t tmpfs -o mode=755 tmpfs "$1"
for name in null zero full random urandom tty; do touch "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
for name in shm pts; do mkdir "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
ln -s pts/ptmx "$1/ptmx"
ln -s /proc/self/fd "$1/fd"
mkdir -p "$1/tenstorrent/by-id"
for n in 0 1 2 3; do touch "$1/tenstorrent/$n"; ln -s "../$n" "$1/tenstorrent/by-id/wormhole-$n"; done
mount --rbind "$1" /dev
"""


class Switch:
    """An Ethernet switch in a network namespace, and the directory that all its machines share.

    directory: holds `hosts` (everyone's /etc/hosts), `home`, and `ray`, over which each machine mounts its own tmpfs.
    """

    def __init__(self) -> None:
        # Below /tmp whatever TMPDIR says: Ray's socket paths have 107 bytes in all.
        self.directory = Path(tempfile.mkdtemp(prefix="rig-", dir="/tmp"))
        for name in ("home", "ray"):
            (self.directory / name).mkdir(mode=0o700)
        self._names: dict[str, str] = {}
        self._write_names()
        (self.directory / "resolv.conf").touch()  # no name server: unknown names fail at once
        self._ports = 0
        try:
            self._process, self.pid = _launch(["unshare", "-n", "bash", "-c", _SWITCH, "switch", str(self.directory)])
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def connect(self, machine: Machine) -> None:
        """Plug the machine in, under its address and name."""
        self._ports += 1
        machine.port = f"port{self._ports}"
        self._ip(f"link add name {machine.port} type veth peer name eth0 netns {machine.pid}")
        self._ip(f"link set {machine.port} master bridge up")
        for command in ("link set lo up", f"addr add {machine.address}/16 dev eth0", "link set eth0 up"):
            _run(["nsenter", "-t", str(machine.pid), "-n", "ip", *command.split()])
        self._names[machine.name] = machine.address
        self._write_names()

    def unplug(self, machine: Machine) -> None:
        """Pull the cable: packets are lost from now on, and nobody is told. Its name is no longer known."""
        self._ip(f"link set {machine.port} down")
        del self._names[machine.name]
        self._write_names()

    def close(self) -> None:
        """End the switch and remove the shared directory."""
        _end(self._process)

    def _write_names(self) -> None:
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._names.items())]
        (self.directory / "hosts").write_text("\n".join(lines) + "\n")

    def _ip(self, command: str) -> None:
        _run(["nsenter", "-t", str(self.pid), "-n", "ip", *command.split()])


class Machine:
    """One machine: own network, mounts, processes and host name, on this machine's file system.

    shm_bytes: size of its /dev/shm, which must exceed the object store or Ray falls back to disk.
    """

    def __init__(self, switch: Switch, name: str, address: str, shm_bytes: int) -> None:
        self.name = name
        self.address = address
        self.port = ""
        script = ["bash", "-c", _MACHINE, "init", name, str(switch.directory), str(shm_bytes)]
        self._process, self.pid = _launch(["unshare", "-n", "-m", "-p", "-u", "--fork", "--kill-child", *script])
        self._init = os.pidfd_open(self.pid)

    def start(self, command: Sequence[str], cwd: Path, **options: object) -> subprocess.Popen[str]:
        """Start a command inside, in a session of its own; options are Popen's."""
        enter = ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "-u", f"--wdns={cwd}", "--"]
        return subprocess.Popen([*enter, *command], text=True, start_new_session=True, **options)  # type: ignore[call-overload]

    def kill(self) -> None:
        """End it as a power cut does: every process at once. Safe to call twice."""
        if self._init < 0:
            return
        signal.pidfd_send_signal(self._init, signal.SIGKILL)
        # Readable once the init is gone, which the kernel allows only after everything inside it.
        gone, _, _ = select.select([self._init], [], [], STEP_SECONDS)
        os.close(self._init)
        self._init = -1
        _end(self._process)
        if not gone:
            raise TimeoutError(f"{self.name} still has processes {STEP_SECONDS:g} s after SIGKILL")


def _launch(command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """Start a namespace's first process and wait until it says `ready <process id>`; raises RuntimeError if it does not."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout
    said = process.stdout.readline() if select.select([process.stdout], [], [], STEP_SECONDS)[0] else "nothing"
    word, _, pid = said.partition(" ")
    if word != "ready":
        process.kill()
        rest = process.communicate()[0] or ""
        raise RuntimeError(f"cannot set up namespaces: {said}{rest}".strip())
    return process, int(pid)


def _end(process: subprocess.Popen[str]) -> None:
    """Close its standard input, which ends it, and make sure."""
    try:
        process.communicate(timeout=STEP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
