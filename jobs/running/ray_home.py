"""Where a session of Ray on this machine keeps its files, and the process that its workers are forked from."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.running.workers.forked import SOCKET_NAME, start_fork_server


@contextmanager
def ray_home() -> Iterator[Path]:
    """A new directory that only this account can enter, which goes when the block ends well, with a fork server's socket in it.

    The path is short, whatever TMPDIR says, because that of a socket in it may have 107 bytes. The server is started and asked
    for the first time here, before this process loads Ray, so that both load it at the same time.
    """
    home = Path(tempfile.mkdtemp(prefix="loudbox-", dir="/tmp"))
    mode = os.environ.get("RAY_AUTH_MODE", "token")  # as Ray will set it, since there is a token
    server = start_fork_server(home / SOCKET_NAME, os.getpid(), home / f"{SOCKET_NAME}.err", RAY_AUTH_MODE=mode)
    try:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as first:
            first.connect(str(home / SOCKET_NAME))
        yield home
    finally:
        server.kill()
        server.wait()
    shutil.rmtree(home, ignore_errors=True)
