"""Sort what may not fit into memory."""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Iterable, Iterator
from itertools import batched
from tempfile import TemporaryFile
from typing import IO, Any

MOST = 500_000
"""Items that are in memory at once: 90 MB of file names and sizes."""
_TOGETHER = 1_000
"""Items written and read together."""


def long_sorted[T: Any](items: Iterable[T], most: int = MOST) -> Iterator[T]:
    """The items in ascending order; all but `most` of them wait in temporary files, which are removed at the end.

    Raises OSError where the disk has no room for them.
    """
    runs = (sorted(run) for run in batched(items, most))
    run, following = next(runs, []), next(runs, None)
    if following is None:
        yield from run
        return
    files = [_written(run), _written(following), *map(_written, runs)]
    try:
        yield from heapq.merge(*map(_read, files))
    finally:
        for file in files:
            file.close()


def _written(run: list[Any]) -> IO[bytes]:
    file = TemporaryFile()  # noqa: SIM115 -- long_sorted closes it
    for part in batched(run, _TOGETHER):
        pickle.dump(part, file)
    file.seek(0)
    return file


def _read(file: IO[bytes]) -> Iterator[Any]:
    while True:
        try:
            yield from pickle.load(file)
        except EOFError:
            return
