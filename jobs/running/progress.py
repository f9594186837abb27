"""How far a run is, while it runs: one line that rewrites itself on a terminal, a plain one every 10 s in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from jobs.running.machine import memory_used
from jobs.running.terminal import one_line, say
from jobs.running.words import counted
from jobs.storage.failure import TOLD_AFTER

RECENT = 30.0  # Seconds that the present rate, and with it the time left, is taken over
THRESHOLD = "RAY_memory_usage_threshold"  # Ray's setting: the share of the memory in use above which it ends tasks
EVERY = {"terminal": 1.0, "log": 10.0}  # Seconds between lines


@dataclass
class Pace:
    """Images so far and how fast they come. Times are seconds of one monotonic clock.

    total: images of the whole run; None where it is not known. before: those that earlier attempts committed.
    images: committed, errors among them. decoded, classified: as far as the run's ledger knows.
    """

    total: int | None
    before: int = 0
    images: int = 0
    errors: int = 0
    decoded: int = 0
    classified: int = 0
    _marks: deque[tuple[float, int]] = field(default_factory=deque)
    _first: tuple[float, int] | None = None

    def add(self, images: int, errors: int, now: float) -> None:
        """So many images, and of them so many errors, have been committed just now."""
        self.images += images
        self.errors += errors
        self._mark(now)

    def know(self, decoded: int, classified: int, now: float) -> None:
        self.decoded = decoded
        if classified > self.classified:
            self.classified = classified
            self._mark(now)

    @property
    def _answered(self) -> int:
        """Of this attempt. An image that cannot be decoded is never classified, but committed."""
        return max(self.images, self.classified)

    def _mark(self, now: float) -> None:
        self._first = self._first or (now, self._answered)
        self._marks.append((now, self._answered))
        while now - self._marks[0][0] > RECENT and len(self._marks) > 2:
            self._marks.popleft()

    @property
    def done(self) -> int:
        """Images with an answer, whichever attempt gave it; never more than all, though a chunk that was repeated adds twice."""
        done = self.before + self._answered
        return done if self.total is None else min(done, self.total)

    def line(self, now: float) -> str:
        """'12,288 of 50,000 images, 19 s left, 2,012 images/s (1,950 on average), 3 errors, 11,776 written': what is known of it.

        Rates begin with the first images, not with the start of the processes that they waited for.
        """
        told = [f"{self.done:,} of {self.total:,} images" if self.total is not None else f"{self.done:,} images"]
        recent = self._rate(self._marks[0], now) if self._marks else None
        average = self._rate(self._first, now) if self._first else None
        if self.total is not None and recent:
            told.append(f"{_duration(max(0, self.total - self.done) / recent)} left")
        if recent is not None and average is not None:
            told.append(f"{recent:,.0f} images/s ({average:,.0f} on average)")
        if self.errors:
            told.append(f"{counted(self.errors, 'error')}")
        if self.decoded > self._answered:
            told.append(f"{self.decoded:,} decoded")
        if self.images < self._answered:
            told.append(f"{self.images:,} written")
        return ", ".join(told)

    def _rate(self, since: tuple[float, int], now: float) -> float | None:
        began, images = since
        return (self._answered - images) / (now - began) if self._answered > images else None


class Progress:
    """Shows the pace of a run until the block ends, and what goes wrong on the way, each trouble once.

    account: what the run's ledger knows (Ledger.account); asked from a thread, since a chunk may take minutes.
    """

    def __init__(self, total: int | None, account: Callable[[], dict[str, Any]]) -> None:
        self._pace = Pace(total)
        self._account = account
        self._told = 0
        self._began, self._waits, self._opened = time.monotonic(), "", False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._live = sys.stderr.isatty()
        self._most_memory = float(os.environ.get(THRESHOLD) or "0.95")
        shape = "{percentage:3.0f}% {bar:20} {desc}" if total is not None else "{desc}"
        known = self._live and os.get_terminal_size(sys.stderr.fileno()).columns
        width: dict[str, Any] = {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}
        self._bar = tqdm(total=total, bar_format=shape, leave=False, disable=not self._live, **width)
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._ask()
        self._bar.close()

    def add(self, committed: dict[str, Any]) -> None:
        """A chunk has been committed: its `images`, and how many of them are `errors`."""
        with self._lock:
            self._pace.add(committed["images"], committed["errors"], time.monotonic())

    def _show(self) -> None:
        while not self._ended.wait(EVERY["terminal" if self._live else "log"]):
            self._ask()
            with self._lock:
                line = self._pace.line(time.monotonic()) + self._waits
            if (used := memory_used()) > self._most_memory:
                line += f", the memory here is {used:.0%} full: Ray ends tasks above {self._most_memory:.0%}, to begin them again"
            if self._live:
                self._bar.n = self._pace.done
                self._bar.set_description_str(line)
            else:
                say(line, sys.stderr)

    def _ask(self) -> None:
        account = self._account()
        events = account.get("events", [])
        for event in events[self._told :]:
            tqdm.write(one_line(f"{event['where']}: {event['what']}"), file=sys.stderr)
        self._told = max(self._told, len(events))
        with self._lock:
            before = self._pace.done
            self._pace.before = account.get("committed_before", self._pace.before)
            if found := account.get("pace"):
                self._pace.know(found["decoded"], found["classified"], time.monotonic())
                self._waits = self._waits_for(found, self._pace.done > before)

    def _waits_for(self, found: dict[str, int], gone_on: bool) -> str:
        """What a run waits for that has not gone on since the last look. found: of Ledger.pace."""
        self._opened = self._opened or found["open"] > 0
        if found["open"] < found["meshes"]:
            since = "" if self._opened else f" since {_duration(time.monotonic() - self._began)}"
            return f", opening {found['meshes'] - found['open']} of {counted(found['meshes'], 'mesh')}{since}"
        if gone_on:
            return ""
        if found["waiting"]:
            return ", waits for storage"
        return "" if found["decoded"] > self._pace.classified else ", waits for decoding"


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Say now and then that the block has not ended."""
    began, ended = time.monotonic(), threading.Event()

    def tell() -> None:
        wait = TOLD_AFTER
        while not ended.wait(wait):
            wait = EVERY["log"]
            say(f"{what}: no end yet after {_duration(time.monotonic() - began)}", sys.stderr)

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
