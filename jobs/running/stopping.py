"""Ctrl-C, SIGTERM and SIGHUP end a command at once; a run that streams first finishes what is in flight, unless told again."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.running.start import Safe

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
FAILED = 1  # The exit code of a command that broke on the way
LAST_SECONDS = 5.0  # What may still be written down before a process ends at once
DRAIN_SECONDS = 120.0  # What is in flight may take so long to finish: two chunks of a large model on a slow CPU


@dataclass
class Draining:
    """A stretch of work that a signal lets finish. signal: the one that did; None while none has.

    drain: lets it finish. last: called at a second signal, just before the process ends.
    """

    drain: Callable[[], None]
    last: Callable[[], None]
    signal: int | None = None


left_behind: list[Path] = []  # Directories that a process deletes, also where it ends at once

_draining: Draining | None = None
_always = False
_terminal: Safe | None = None
_told = "interrupted"


def stop_on_signals() -> None:
    """From now on SIGNALS end this process, see above.

    A thread does it, whatever the main thread waits for. An exception there would not do: imports and libraries swallow it, or
    end with half of their work done.
    """
    global _always
    _always = True
    _listen()


def say_when_stopped(line: str) -> None:
    """From now on, this is the last line of a command that a signal ends."""
    global _told
    _told = line


@contextmanager
def draining(drain: Callable[[], None], last: Callable[[], None]) -> Iterator[Draining]:
    """While the block runs, a first signal lets it finish (see Draining)."""
    global _draining
    with handlers_kept():
        _draining = Draining(drain, last)
        _listen()
        try:
            yield _draining
        finally:
            _draining = None


@contextmanager
def handlers_kept() -> Iterator[None]:
    """The handlers of SIGNALS are after the block what they were before it."""
    in_main = threading.current_thread() is threading.main_thread()  # no other may set one
    kept = {number: signal.getsignal(number) for number in SIGNALS} if in_main else {}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _listen() -> None:
    """Have a thread told of signals; the interpreter tells it of those that have a handler."""
    global _terminal
    if _terminal is None:
        _terminal = Safe(2)  # what Ray writes to 2 may be redirected
        told, tells = os.pipe()
        os.set_blocking(tells, False)
        signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_forget)
        threading.Thread(target=_wait, args=(told,), name="signals", daemon=True).start()
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # which nohup asks for
            signal.signal(number, lambda *_: None)


def _wait(told: int) -> None:
    while True:
        number = os.read(told, 1)[0]
        if number in SIGNALS and (_always or _draining):
            _stop(number)


def _stop(number: int) -> None:
    run = _draining
    if run and run.signal is None:
        run.signal = number
        _say(f"stopping: finishing what is in flight, for {DRAIN_SECONDS:g} s at most; once more to stop at once")
        with suppress(RuntimeError):  # where no thread can be started
            threading.Thread(target=_finish, args=(run,), daemon=True).start()  # not here: the next signal would wait
            return
    if run and number == signal.SIGHUP:  # a terminal that closes may send several
        return
    end_at_once(_told, 128 + number, run.last if run else lambda: None)


def _finish(run: Draining) -> None:
    limit = time.monotonic() + DRAIN_SECONDS
    with suppress(Exception):  # of a cluster that is gone
        run.drain()
    while time.monotonic() < limit:
        time.sleep(0.2)
        if _draining is not run:
            return
    end_at_once(f"stopped: what is in flight takes more than {DRAIN_SECONDS:g} s", 128 + (run.signal or 0), run.last)


def end_at_once(line: str | None, code: int, last: Callable[[], None] = lambda: None) -> None:
    """Say the line, if any, and end the process with that code, whatever its threads do. last: called before."""
    with suppress(RuntimeError):  # where no thread can be started
        threading.Timer(LAST_SECONDS, os._exit, [code]).start()
    if line:
        _say(line)
    with suppress(Exception):
        for child in sys.modules["multiprocessing"].active_children():  # where this process has any
            child.kill()
    with suppress(Exception):
        last()
    for directory in left_behind:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(code)


def _say(line: str) -> None:
    if _terminal:
        _terminal.write(f"{line}\n".encode(errors="backslashreplace"))
    else:  # in another program, where nothing but sys.stderr may still lead to the terminal
        print(line, file=sys.stderr, flush=True)


def _forget() -> None:
    """In a forked process: signals are its own again."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
