"""The fork server: imports what every worker needs when it is first asked, and forks a worker at each request.

python -I server.py LISTENER PROCESS     the file descriptor it is asked through, the process id of what it ends with

Importing Ray and Ray Data takes 2 s of CPU time, a fork 0.05 s. No thread that matters is running when it forks: those of
OpenBLAS and jemalloc prepare themselves for it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import json
import os
import re
import runpy
import select
import signal
import socket
import sys
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any
from unittest.mock import patch

PRELOADED = (
    "ray._private.workers.default_worker",
    "ray._common.pydantic_compat",  # which Ray imports in a worker when that serialises for the first time, like the next
    "ray._private.arrow_serialization",
    "pydantic.v1",
    "pyarrow.json",
    "ray.data",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "PIL.Image",
    "simplejpeg",
)
"""None that is the project's: a submitted job may bring another version of it."""

RESIZES = "lib/libtorch_cpu.so"
"""The library in PyTorch's directory that every decode worker calls: 0.3 s of CPU time to load, and no thread."""

REQUEST_SECONDS = 10.0
"""Limit for one request, so that who stops within one does not keep the others waiting."""

OWN_PATHS = len(sys.path)
"""How many places this interpreter finds modules in, before any is imported that adds others."""


class DrawnByPython:
    """Ray's ids of actor classes, drawn without its library's generator, which all workers would else go on with."""

    @staticmethod
    def from_random() -> Any:
        from ray import ActorClassID

        return ActorClassID(os.urandom(ActorClassID.size()))


Request = tuple[list[str], dict[str, str], str, bool]
"""A worker's command without its interpreter, its environment, its directory, whether it leads a process group."""


def serve(listener: socket.socket, lives_with: int) -> Request | None:
    """Fork at each request. Returns one in the process that is to become its worker, None when the other process has ended."""
    try:
        other = os.pidfd_open(lives_with)
    except ProcessLookupError:
        return None
    loaded = False
    while True:
        ready, _, _ = select.select([listener.fileno(), other], [], [])
        if other in ready:
            return None
        if not loaded:
            load()
            loaded = True
        connection, _ = listener.accept()
        connection.settimeout(REQUEST_SECONDS)
        with connection, suppress(OSError, ValueError), ExitStack() as opened:  # errors: who asked has ended
            request, files = receive(connection)
            for file in files:
                opened.callback(os.close, file)
            if request and os.fork() == 0:
                listener.close()
                os.close(other)
                for number, file in enumerate(files):
                    os.dup2(file, number)
                return request
            connection.sendall(b"y" if request else b"n")


def receive(connection: socket.socket) -> tuple[Request | None, list[int]]:
    """A request and its open files; no request if a fork of this process would be another worker than the one asked for."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    size, text = int.from_bytes(head, "little"), b""
    while len(text) < size and (part := connection.recv(size - len(text))):
        text += part
    if len(text) < size:  # who asked has ended
        return None, files
    python, command, environment, directory, leads = json.loads(text)
    alike = python == sys.executable and read_at_load(environment) == read_at_load(os.environ)
    return ((command, environment, directory, leads) if alike else None), files


def read_at_load(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that Ray's library reads when it is loaded, and never again."""
    return {name: value for name, value in environment.items() if name == "RAY_AUTH_MODE" or re.match("RAY_[a-z]", name)}


def become_worker(command: list[str], environment: dict[str, str], directory: str, leads: bool) -> None:
    """Run a worker's script as its interpreter would have, had it been started."""
    if leads:
        os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    places = environment["PYTHONPATH"].split(os.pathsep) if environment.get("PYTHONPATH") else []
    own = len(sys.path) - OWN_PATHS  # in front of which Ray puts some when it is imported
    sys.path[own:own] = [os.path.dirname(os.path.realpath(command[0])), *places]
    sys.argv = command
    sys.modules["numpy"].random.seed()  # else all workers would draw the same numbers
    runpy.run_path(command[0], run_name="__main__")


def load() -> None:
    """Import what workers need. Raises RuntimeError where Ray's library has drawn a random number meanwhile."""
    gc.disable()  # nothing that is imported is garbage
    import ray.actor

    with patch.object(ray.actor, "ActorClassID", DrawnByPython):
        for name in PRELOADED:
            importlib.import_module(name)
    torch = importlib.util.find_spec("torch")
    if torch and torch.origin:
        ctypes.CDLL(os.path.join(os.path.dirname(torch.origin), RESIZES))
    if len({drawn_in_a_fork() for _ in range(2)}) == 1:
        raise RuntimeError("two workers would draw the same ids, so none is forked")
    gc.enable()
    gc.freeze()  # what is imported stays: a worker's collector need not touch, and so copy, its memory


def drawn_in_a_fork() -> bytes:
    """The first id that a worker would draw."""
    from ray import ObjectRef

    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, ObjectRef.from_random().binary())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as drawn:
        return drawn.read()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as Ray does for its own: Ctrl-C is the driver's
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    asked = serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    if asked:
        become_worker(*asked)
