"""What listing a data set costs with the number of files: seconds, peak memory, and the size of its packed shards.

python -m tests.benchmarks.listing [files]         a million by default

The files are hard links to an empty one, in a temporary folder: a listing reads names and sizes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.bench import argument

LINKS = 60_000
"""A file system has a limit to the links of a file."""

LISTED = """
import sys, time
from jobs.pipeline.sources import open_source, surveyed
source = open_source(sys.argv[1], checkpoint_classes=[], labels="none")
def peak():
    told = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # of this program, not of what forked it
    return int(told.split()[1]) / 1024
before, began = peak(), time.monotonic()
found = surveyed(source)
print(found.images, time.monotonic() - began, peak() - before, sum(map(len, found.shards)) / 2**20)
"""


def make(folder: Path, files: int, a_folder: int) -> Path:
    """So many empty images in folders of a_folder each, or beside each other."""
    for number in range(files):
        place = folder / f"{number // a_folder:06d}" if a_folder < files else folder
        if number % a_folder == 0:
            place.mkdir(parents=True)
        first = folder.parent / f"empty-{number // LINKS}"
        if number % LINKS == 0:
            first.touch()
        os.link(first, place / f"{number:08d}.jpg")
    return folder


def main() -> None:
    files = argument(1, 1_000_000)
    print(f"{'files':>10} {'layout':>14} {'seconds':>8} {'MB':>6} {'MB of shards':>13}")
    for count in (files // 4, files):
        for layout, a_folder in (("class folders", 1000), ("flat folder", count)):
            with tempfile.TemporaryDirectory() as scratch:
                line = [sys.executable, "-c", LISTED, str(make(Path(scratch) / "data", count, a_folder))]
                done = subprocess.run(line, capture_output=True, text=True, check=True)
            found, seconds, memory, shards = map(float, done.stdout.split())
            assert found == count
            print(f"{count:>10,} {layout:>14} {seconds:>8.1f} {memory:>6.0f} {shards:>13.1f}", flush=True)


if __name__ == "__main__":
    main()
