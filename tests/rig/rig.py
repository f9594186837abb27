"""A Ray cluster of several hosts on one machine: a head, LoudBoxes with four boards, and CPU-only helpers."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from tests.commands import ROOT, Command
from tests.rig.machine import BOARDS, Machine, Switch
from vit_actor.errors import UserError

START_SECONDS = 120.0  # Limit for start-node.sh: it takes 5 to 10 s of two shared cores, and hosts that start together share them
_HEAD, _ADDRESS = "head", "10.77.0.1"


class Rig:
    """A cluster for the length of a `with` block, authenticated by a token that only its own hosts hold.

    loudboxes: hosts named loudbox-1, loudbox-2, ... that look as if they had four boards.
    helpers: hosts named helper-1, ... without boards.
    cpus: CPUs each of those declares, however many cores the machine has; the head declares none.
    object_store_mb: object store of every host, on its own /dev/shm.
    Raises UserError where it cannot run: it needs root, and the programs of Debian's iproute2 and util-linux.
    """

    def __init__(self, loudboxes: int = 1, helpers: int = 0, *, cpus: int = 2, object_store_mb: int = 200) -> None:
        self.hosts: dict[str, Machine] = {}
        self._first = [(f"loudbox-{n + 1}", True, cpus) for n in range(loudboxes)]
        self._first += [(f"helper-{n + 1}", False, cpus) for n in range(helpers)]
        self._cpus = cpus
        self._object_store = object_store_mb * 2**20
        self._addresses = 0

    @property
    def directory(self) -> Path:
        """The directory that all hosts share; it goes with the rig."""
        return self._switch.directory

    @property
    def home(self) -> str:
        """HOME of everything on the rig."""
        return str(self.directory / "home")

    @staticmethod
    def send(pid: int, number: signal.Signals) -> None:
        """A signal for a command that `start` began: not for nsenter, which waits for it."""
        for child in psutil.Process(pid).children():
            child.send_signal(number)

    def __enter__(self) -> Self:
        missing = [tool for tool in ("ip", "unshare", "nsenter", "mount", "bash") if not shutil.which(tool)]
        if missing:
            raise UserError(f"the rig needs {', '.join(missing)}; install the packages iproute2, util-linux and mount")
        if os.geteuid() != 0:
            raise UserError("the rig needs root, to create network namespaces")
        with ExitStack() as stack:
            self._switch = Switch()
            stack.callback(self._switch.close)
            stack.callback(self._kill_all)
            token = self.directory / "home" / ".ray" / "auth_token"
            token.parent.mkdir(mode=0o700)
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            self._join([(_HEAD, False, 0)])
            self._join(self._first)
            self._teardown = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._teardown.close()

    def add_host(self, name: str, *, boards: bool = True, cpus: int | None = None) -> Machine:
        """Join one more host; returns when it has registered."""
        assert name not in self.hosts
        self._join([(name, boards, self._cpus if cpus is None else cpus)])
        return self.hosts[name]

    def kill_host(self, name: str) -> None:
        """Lose a host as in a power cut: its cable goes silent, and all its processes are gone."""
        self._switch.unplug(self.hosts[name])
        self.hosts.pop(name).kill()

    def start(
        self, command: Sequence[str], *, host: str = _HEAD, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command on a host, in the project; `python` and `ray` are this interpreter's. options are Popen's.

        env is added to the rig's environment; nothing is inherited from this process's.
        """
        return self.hosts[host].start(command, ROOT, env=self._environment() | dict(env or {}), **options)

    def run(
        self, command: Sequence[str], *, timeout: float = 60.0, check: bool = True, **where: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, where `start` would, with stdout and stderr captured.

        Raises subprocess.TimeoutExpired after `timeout` seconds, when the command is killed, and with `check`
        CalledProcessError for an exit code but 0; both carry the output as a note.
        """
        done = _finish(self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **where), timeout)
        return _checked(done) if check else done

    def command(self, line: Sequence[str]) -> Command:
        """A command on the head in the background."""
        return Command(lambda stdout, stderr: self.start(line, stdout=stdout, stderr=stderr))

    def _join(self, hosts: list[tuple[str, bool, int]]) -> None:
        """Start hosts, given as (name, boards, cpus), all at once, and those that fail a second time one by one.

        A raylet aborts when its dashboard agent is not up within 15 s, which no setting changes; several that start
        together on overloaded cores exceed that.
        """
        started = [(host, self._begin(*host)) for host in hosts]
        for host in [host for host, process in started if _finish(process, START_SECONDS).returncode]:
            self.kill_host(host[0])
            _checked(_finish(self._begin(*host), START_SECONDS))

    def _begin(self, name: str, boards: bool, cpus: int) -> subprocess.Popen[str]:
        """Create a machine and start Ray on it, without waiting."""
        self._addresses += 1
        address = f"10.77.{self._addresses // 250}.{self._addresses % 250}"
        machine = self.hosts[name] = Machine(self._switch, name, address, shm_bytes=self._object_store + 64 * 2**20)
        self._switch.connect(machine)
        return self._start_ray(name, boards, cpus)

    def restart_head(self) -> None:
        """Kill Ray on the head with the jobs that it runs, and start it again without a memory; other hosts must join anew."""
        killed = "gcs_server|raylet|dashboard|default_worker|ray::|-m jobs[.]"
        self.run(["bash", "-c", f"pkill -9 -f '{killed}'"], check=False)  # in the head's own PID namespace
        _checked(_finish(self._start_ray(_HEAD, False, 0), START_SECONDS))

    def _start_ray(self, name: str, boards: bool, cpus: int) -> subprocess.Popen[str]:
        if boards:
            self.run(["bash", "-c", BOARDS, "boards", str(self.directory / "dev")], host=name)
        role = ["head"] if name == _HEAD else ["worker", _ADDRESS]
        options = [f"--num-cpus={cpus}", f"--object-store-memory={self._object_store}"]
        line = [str(ROOT / "cluster" / "start-node.sh"), *role, *options]
        return self.start(line, host=name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": self.home,
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "RAY_ADDRESS": f"{_ADDRESS}:6379",
            "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265",
            "RAY_AUTH_MODE": "token",
            "RAY_TMPDIR": str(self.directory),
            "RAY_USAGE_STATS_ENABLED": "0",
            # As cluster/start-node.sh sets them.
            "RAY_idle_worker_killing_time_threshold_ms": "600000",
            "RAY_grpc_client_keepalive_time_ms": "10000",
            "RAY_grpc_client_keepalive_timeout_ms": "20000",
        }

    def _kill_all(self) -> None:
        with ExitStack() as stack:  # one that cannot be killed does not save the others
            for machine in self.hosts.values():
                stack.callback(machine.kill)
            self.hosts = {}


def _finish(process: subprocess.Popen[str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        # Namespaces do not split process groups: this reaches the command, not nsenter alone.
        os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # something in another session still holds the pipe; it ends with the rig
            error.add_note("".join(text for text in process.communicate(timeout=5) if text)[-4000:])
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    try:
        done.check_returncode()
    except subprocess.CalledProcessError as error:
        error.add_note(f"{done.stdout or ''}{done.stderr or ''}"[-4000:])
        raise
    return done
