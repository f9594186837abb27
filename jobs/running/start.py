"""What a command does first, before it imports anything: text is UTF-8, the standard streams are safe, signals are listened to.

A stream may be closed, full, or gone with its terminal: work goes on without it.
"""

import errno
import io
import os
import select
import stat
import sys
import time
from contextlib import suppress
from typing import TextIO

PATIENCE_SECONDS = 5.0
"""How long a reader may take nothing until what it is told is left out, so that no reader can stop the work."""


def begin() -> None:
    """To be called before other threads and files are there; may start this process anew, see `use_utf8`."""
    use_utf8()
    open_streams()
    try:
        os.getcwd()
    except OSError as error:
        print(f"error: the working directory is gone ({error.strerror}); change to one that exists", file=sys.stderr)
        sys.exit(2)
    words = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else [""]
    joins = os.environ.get("RAY_ADDRESS") or any(word.startswith("--addr") for word in words)
    if words[0].startswith("jobs.") and not joins:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # of a session here; Ray reads it when it is imported, by some at once
    from jobs.running.stopping import stop_on_signals

    stop_on_signals()


def use_utf8() -> None:
    """Where the locale is of another encoding, start this command once more in Python's UTF-8 mode, which its workers inherit.

    Else names would be other bytes to Python than to Arrow, and other bytes under another locale.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def open_streams() -> None:
    """Make standard output and error streams that never fail; what is closed becomes the null device."""
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get this number, and what is printed
            os.open(os.devnull, flags)
            os.set_inheritable(number, True)
    sys.stdout = sys.__stdout__ = stream(1)  # type: ignore[misc, assignment]
    sys.stderr = sys.__stderr__ = stream(2)  # type: ignore[misc, assignment]


def stream(number: int) -> TextIO:
    """A stream of lines in UTF-8 to where that descriptor leads now; writing to it never fails."""
    return io.TextIOWrapper(Safe(number), encoding="utf-8", errors="backslashreplace", line_buffering=True)


class Safe(io.RawIOBase):
    """Writes to where a descriptor leads now, as far as somebody takes it. lost: why it could not, if it is not the reader."""

    def __init__(self, number: int) -> None:
        self._number, self._patience = _own(number), PATIENCE_SECONDS
        self.lost: str | None = None
        self.mode, self.name = "wb", f"<{number}>"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """All of it counts as written."""
        left, limit, room = memoryview(data), time.monotonic() + self._patience, select.poll()
        room.register(self._number, select.POLLOUT)
        while left:
            try:
                if not room.poll(1000 * max(0.0, limit - time.monotonic())):
                    self._patience = 0.0  # who took nothing for so long is not waited for again
                    break
                left = left[os.write(self._number, left[: select.PIPE_BUF]) :]
                self._patience = PATIENCE_SECONDS
            except BlockingIOError:
                time.sleep(0.01)
            except OSError as error:  # gone, full, or closed
                if error.errno != errno.EPIPE:
                    self.lost = error.strerror
                break
        return len(data)


def _own(number: int) -> int:
    """A descriptor that leads to the same place and does not block there, if that can be had."""
    with suppress(OSError):
        kind = os.fstat(number).st_mode
        if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):  # of a file it would have a position of its own
            return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return os.dup(number)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return os.open(os.devnull, os.O_WRONLY)
