"""Let Ray's scheduler on this host have its workers forked, where Ray is the release that this is made for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

KNOWN_RAY = "2.60."
NO_JOB = "ffffffff"
"""What Ray calls no job: a worker that belongs to none yet takes the first that it gets work from."""
SOCKET_NAME = "fork_server"

_CLIENT, _SERVER = (str(Path(__file__).with_name(name)) for name in ("client.py", "server.py"))
_COMMAND, _SOCKET = "--python_worker_command=", "--raylet_socket_name="


def start_fork_server(path: Path, lives_with: int, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start the process that workers are forked from; it is asked through the socket `path`, which only this account may use.

    It loads Ray when it is first asked: a host that starts has other work for its cores.

    lives_with: process id of Ray's scheduler, or of what ends with it: the server ends when that does, and workers too.
    environment: what workers will have of it that this process does not have yet.
    log: gets the reason where it cannot start. Workers start as they do without it then, and when it has ended.
    """
    with socket.socket(socket.AF_UNIX) as listener, log.open("wb") as errors:
        path.unlink(missing_ok=True)  # of a server that has ended: a host that starts again has the directory it had
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(128)
        return subprocess.Popen(
            [sys.executable, "-I", _SERVER, str(listener.fileno()), str(lives_with)],
            # Ray's library reads these two when it is loaded, and a worker must have them.
            env={**os.environ, **environment, "RAY_RAYLET_PID": str(lives_with), "RAY_JOB_ID": NO_JOB},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def forked_workers(server: Path | None = None) -> AbstractContextManager[Any]:
    """Around the start of a Ray node: its Python workers are forked, which saves each about 2 s of CPU time.

    server: the socket of a fork server; without one, each scheduler gets its own, that ends when it does.
    Ray has no setting for it, so that its scheduler's command line is changed. With another release nothing is changed.
    """
    import ray  # here, because the server is started before Ray is loaded, so that both load at once
    from ray._private import services

    if not ray.__version__.startswith(KNOWN_RAY):
        return nullcontext()
    return patch.object(services, "start_ray_process", _start_with_fork_server(services.start_ray_process, server))


def _start_with_fork_server(start: Callable[..., Any], server: Path | None) -> Callable[..., Any]:
    def start_with(command: list[str], *args: Any, **kwargs: Any) -> Any:
        sockets = [Path(part.removeprefix(_SOCKET)) for part in command if part.startswith(_SOCKET)]
        if not sockets:  # it is not the scheduler that is started
            return start(command, *args, **kwargs)
        path = server or sockets[0].with_name(SOCKET_NAME)
        process = start([_through_client(part, path) for part in command], *args, **kwargs)
        if not server:
            start_fork_server(path, process.process.pid, sockets[0].parents[1] / "logs" / f"{SOCKET_NAME}.err")
        return process

    return start_with


def _through_client(part: str, path: Path) -> str:
    """An argument of the scheduler's; in its command for workers, their script becomes an argument of the client."""
    from ray._private import services

    if not part.startswith(_COMMAND):
        return part
    script = subprocess.list2cmdline([str(Path(services.__file__).with_name("workers") / "default_worker.py")])
    return part.replace(f" {script} ", f" {subprocess.list2cmdline(['-I', '-S', _CLIENT, str(path)])} {script} ")
