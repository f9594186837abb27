"""What every command shares: one line for a user's mistake, and the exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from vit_actor.errors import UserError

USER_ERROR = 2
TOO_MANY_ERRORS = 3
STOPPED = 128 + signal.SIGTERM


class Stopped(BaseException):
    """SIGTERM arrived: what is committed stays, the rest is left to a resume."""


def run(main: Callable[[], int]) -> None:
    """Run a command's main and exit with its code; a UserError ends as one line on stderr and code 2."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    sys.exit(code)


def stop_on_sigterm() -> None:
    """Raise Stopped in the main thread on SIGTERM. Install it after ray.init, which sets a handler of its own."""

    def handler(signum: int, frame: object) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, handler)
