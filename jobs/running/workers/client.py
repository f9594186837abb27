"""What Ray's scheduler starts for a worker: asks the fork server for one, and becomes an ordinary one where that fails.

python -I -S client.py SOCKET WORKER [argument ...]     it imports as little as it can: it runs once for every worker
"""

import json
import os
import socket
import sys


def forked(path: str, worker: list[str]) -> bool:
    """Whether the fork server has started the worker, with this process's environment, directory and open files 0 to 2."""
    leads = os.getpgrp() == os.getpid()  # a process group of its own, so that what it leaves behind can be ended with it
    request = json.dumps([sys.executable, worker, dict(os.environ), os.getcwd(), leads]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
            socket.send_fds(server, [len(request).to_bytes(8, "little")], [0, 1, 2])
            server.sendall(request)
            return server.recv(1) == b"y"
        except OSError:  # it has ended
            return False


if __name__ == "__main__" and not forked(sys.argv[1], sys.argv[2:]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
