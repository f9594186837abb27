"""Commands of the project run as processes of their own, most of them forked from one that has imported their packages.

Importing takes 3 s of CPU time a command and there are dozens of commands. What imports decide, and whole commands as a user
starts them, are tested in test_imports.py, test_documents.py and tests/cluster.
"""

import atexit
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any, Self

ROOT = Path(__file__).parent.parent
FORKED = "jobs.", "tests.faults."  # What a forked command's module begins with

_server = get_context("forkserver")
_server.set_forkserver_preload(["tests.preloaded"])


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def succeeded(self) -> Self:
        """Itself; raises AssertionError for an exit code but 0."""
        assert self.code == 0, self.output
        return self


class Command:
    """A process that has begun, what it tells, and its end.

    start: begins it, given files for its standard output and its standard error.
    """

    def __init__(self, start: Callable[[IO[bytes], IO[bytes]], subprocess.Popen[Any] | ForkServerProcess]) -> None:
        self._begun = time.monotonic()
        self._told = tuple(os.fdopen(os.memfd_create(name), "r+b") for name in ("stdout", "stderr"))
        self._process = start(*self._told)

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, minus a signal's number where one ended it; None while it runs."""
        return self._process.poll() if isinstance(self._process, subprocess.Popen) else self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self, timeout: float = 200) -> Finished:
        """Wait for its end; past the timeout it is killed, and the test fails."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise AssertionError(f"no end after {timeout:g} s: {self.told()}")
            time.sleep(0.01)
        return Finished(code, *self.told(), time.monotonic() - self._begun)

    def told(self) -> tuple[str, str]:
        """What it has written to standard output and to standard error."""
        # Read without moving to there: where it writes next is shared with the process.
        stdout, stderr = (os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in self._told)
        return stdout, stderr


def begin(*arguments: str, environment: Mapping[str, str] | None = None, fork: bool = True) -> Command:
    """`python -m <arguments>` from the project's root. fork: if that makes no difference; /proc tells another environment."""
    given = dict(os.environ if environment is None else environment)

    def forked(*told: IO[bytes]) -> ForkServerProcess:
        process = _server.Process(target=_become, args=(arguments, given, [DupFd(file.fileno()) for file in told]))
        process.start()
        return process

    def started(stdout: IO[bytes], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=given, stdout=stdout, stderr=stderr)

    alike = arguments[0].startswith(FORKED) and _read_at_start(given) == _read_at_start(os.environ)
    return Command(forked if fork and alike else started)


def run_module(*arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 200) -> Finished:
    """`python -m <arguments>` from the project's root, to its end."""
    return begin(*arguments, environment=environment).end(timeout)


def run_line(*line: str | Path, environment: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Finished:
    """Any command to its end."""
    began = time.monotonic()
    done = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250, check=False)
    return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def run_code(code: str, *arguments: str | Path, **options: Any) -> Finished:
    """Python code in a process of its own; options are run_line's."""
    return run_line(sys.executable, "-c", code, *arguments, **options)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that Python and Ray read when they are loaded, and so must be the fork server's."""
    names = r"PYTHON(?!PATH)|LC_|LANG|RAY_[a-z]|RAY_AUTH_MODE"
    found = {name: value for name, value in environment.items() if re.match(names, name)}
    return found | {"PYTHONPATH": environment.get("PYTHONPATH") or str(ROOT)}


def _become(arguments: tuple[str, ...], environment: dict[str, str], files: list[Any]) -> None:
    """In a forked process: become the command."""
    for number, file in enumerate(files, start=1):
        os.dup2(file.detach(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.modules["numpy"].random.seed()  # else all would draw the same numbers
    sys.modules["jobs.running.stopping"].stop_on_signals()  # as `python -m` does at first
    sys.argv[1:] = arguments[1:]
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
