"""What listing a data set costs with the number of files: seconds, peak memory, and the size of its packed shards.

python -m tests.benchmarks.listing [--files 1000000]

The files are hard links to an empty one, in a temporary folder: a listing reads names and sizes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

A_FOLDER = 1_000
"""Files of a class folder."""

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
    """So many empty images in class folders of a_folder each, or beside each other."""
    empty = folder.parent / "empty"
    empty.touch()
    places = [folder / f"{n:06d}" for n in range(-(-files // a_folder))] if a_folder < files else [folder]
    links = 0
    for number, place in enumerate(places):
        place.mkdir(parents=True)
        for n in range(min(a_folder, files - number * a_folder)):
            if links == 60_000:  # a file system has a limit to the links of a file
                empty = folder.parent / f"empty-{number}-{n}"
                empty.touch()
                links = 0
            os.link(empty, place / f"{number:06d}-{n:08d}.jpg")
            links += 1
    return folder


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.listing", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--files", type=int, default=1_000_000, help="files of the larger of two data sets (default: %(default)s)"
    )
    files = parser.parse_args(arguments).files
    print(f"{'files':>10} {'layout':>14} {'seconds':>8} {'MB':>6} {'MB of shards':>13}")
    for count in (files // 4, files):
        for layout, a_folder in (("class folders", A_FOLDER), ("flat folder", count)):
            with tempfile.TemporaryDirectory() as scratch:
                folder = make(Path(scratch) / "data", count, a_folder)
                line = [sys.executable, "-c", LISTED, str(folder)]
                done = subprocess.run(line, capture_output=True, text=True, check=True)
            found, seconds, memory, shards = map(float, done.stdout.split())
            assert found == count
            print(f"{count:>10,} {layout:>14} {seconds:>8.1f} {memory:>6.0f} {shards:>13.1f}", flush=True)


if __name__ == "__main__":
    main()
