"""A Ray cluster of several hosts on one machine: a head, LoudBoxes with four boards, and CPU-only helpers."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
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
        self._first = [f"loudbox-{n + 1}" for n in range(loudboxes)] + [f"helper-{n + 1}" for n in range(helpers)]
        self._cpus, self._object_store, self._addresses = cpus, object_store_mb * 2**20, 0

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
            self._join([_HEAD])
            self._join(self._first)
            self._teardown = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._teardown.close()

    def add_host(self, name: str) -> None:
        """Join one more host, with boards unless it is called a helper; returns when it has registered."""
        assert name not in self.hosts
        self._join([name])

    def kill_host(self, name: str) -> None:
        """Lose a host as in a power cut: its cable goes silent, and all its processes are gone."""
        self._switch.unplug(self.hosts[name])
        self.hosts.pop(name).kill()

    def start(self, command: Sequence[str], *, host: str = _HEAD, **options: Any) -> subprocess.Popen[str]:
        """Start a command on a host, in the project; `python` and `ray` are this interpreter's. options are Popen's.

        Nothing is inherited from this process's environment.
        """
        return self.hosts[host].start(command, ROOT, env=self._environment(), **options)

    def run(
        self, command: Sequence[str], *, host: str = _HEAD, timeout: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, where `start` would, with stdout and stderr captured; raises what `_finish` does."""
        return _finish(self.start(command, host=host, stdout=subprocess.PIPE, stderr=subprocess.PIPE), timeout, check)

    def command(self, line: Sequence[str]) -> Command:
        """A command on the head in the background."""
        return Command(lambda stdout, stderr: self.start(line, stdout=stdout, stderr=stderr))

    def _join(self, names: list[str]) -> None:
        """Start hosts all at once, and those that fail a second time one by one.

        A raylet aborts when its dashboard agent is not up within 15 s, which no setting changes; several that start
        together on overloaded cores exceed that.
        """
        started = [(name, self._begin(name)) for name in names]
        for name in [name for name, process in started if _finish(process, START_SECONDS, check=False).returncode]:
            self.kill_host(name)
            _finish(self._begin(name), START_SECONDS)

    def _begin(self, name: str) -> subprocess.Popen[str]:
        """Create a machine and start Ray on it, without waiting."""
        self._addresses += 1
        address = f"10.77.{self._addresses // 250}.{self._addresses % 250}"
        machine = self.hosts[name] = Machine(self._switch, name, address, shm_bytes=self._object_store + 64 * 2**20)
        self._switch.connect(machine)
        return self._start_ray(name)

    def restart_head(self) -> None:
        """Kill Ray on the head with the jobs that it runs, and start it again without a memory; other hosts must join anew."""
        killed = "gcs_server|raylet|dashboard|default_worker|ray::|-m jobs[.]"
        self.run(["bash", "-c", f"pkill -9 -f '{killed}'"], check=False)  # in the head's own PID namespace
        _finish(self._start_ray(_HEAD), START_SECONDS)

    def _start_ray(self, name: str) -> subprocess.Popen[str]:
        if name != _HEAD and not name.startswith("helper"):
            self.run(["bash", "-c", BOARDS, "boards", str(self.directory / "dev")], host=name)
        role, cpus = (["head"], 0) if name == _HEAD else (["worker", _ADDRESS], self._cpus)
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


def _finish(process: subprocess.Popen[str], timeout: float, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Raises subprocess.TimeoutExpired after `timeout` seconds, when the command is killed, and with `check` CalledProcessError
    for an exit code but 0; both carry the output as a note."""
    try:
        out, err = process.communicate(timeout=timeout)
        if check and process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args, out, err)
    except subprocess.TimeoutExpired as error:
        # Namespaces do not split process groups: this reaches the command, not nsenter alone.
        os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # something in another session still holds the pipe; it ends with the rig
            error.add_note("".join(text for text in process.communicate(timeout=5) if text)[-4000:])
        raise
    except subprocess.CalledProcessError as error:
        error.add_note(f"{error.stdout or ''}{error.stderr or ''}"[-4000:])
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
