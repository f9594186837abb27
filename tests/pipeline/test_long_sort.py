"""Sorting with few items in memory."""

from __future__ import annotations

import os
import random

import pytest

from jobs.pipeline.sources.long_sort import long_sorted


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 200, 4321])
@pytest.mark.parametrize("most", [50, 100, 5000])
def test_what_is_sorted_in_parts_is_sorted_and_leaves_no_file_open(count: int, most: int) -> None:
    rng = random.Random(count)
    items = [(f"{rng.randrange(1000)}-k\u00e4se-\udce9\n.jpg", rng.randrange(10**6)) for _ in range(count)]
    before = open_files()
    assert list(long_sorted(iter(items), most)) == sorted(items)
    assert open_files() == before


def test_one_who_stops_early_leaves_no_file_open() -> None:
    before = open_files()
    found = long_sorted(((f"{number:04d}", number) for number in range(1000, 0, -1)), 100)
    assert [next(found), next(found)] == [("0001", 1), ("0002", 2)]
    found.close()
    assert open_files() == before
