"""Sort more files than fit into memory."""

import heapq
import json
from collections.abc import Iterable, Iterator
from itertools import batched
from tempfile import TemporaryFile, gettempdir
from typing import IO

from jobs.storage.failure import storage_errors

MOST = 500_000  # Files that are in memory at once: 90 MB of names and sizes
_A_LINE = 1_000  # Files written and read together
type File = tuple[str, int]  # Name and size


def long_sorted(files: Iterable[File], most: int = MOST) -> Iterator[File]:
    """The files by name; all but `most` of them wait in temporary files, which are removed at the end.

    Raises UserError where the disk has no room for them.
    """
    parts = (sorted(part) for part in batched(files, most))
    first, second = next(parts, []), next(parts, None)
    if second is None:
        yield from first
        return
    with storage_errors(gettempdir(), "write"):
        written = [_write(first), _write(second), *map(_write, parts)]
    try:
        yield from heapq.merge(*map(_read, written))
    finally:
        for part in written:
            part.close()


def _write(part: list[File]) -> IO[str]:
    written = TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 -- long_sorted closes it
    written.writelines(f"{json.dumps(some)}\n" for some in batched(part, _A_LINE))
    written.seek(0)
    return written


def _read(written: IO[str]) -> Iterator[File]:
    for line in written:
        yield from ((name, size) for name, size in json.loads(line))
