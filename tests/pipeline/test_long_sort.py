"""Sorting with few items in memory."""

import os
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.pipeline.sources.long_sort import long_sorted
from tests.small_disk import small_disk
from vit_actor.errors import UserError


@pytest.fixture
def open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the temporary files that this process has open, which are in a place of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def count() -> int:
        found = 0
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                found += os.readlink(entry).startswith(str(tmp_path))
        return found

    return count


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 200, 4321])
@pytest.mark.parametrize("most", [50, 100, 5000])
def test_what_is_sorted_in_parts_is_sorted_and_leaves_no_file_open(open_files: Callable[[], int], count: int, most: int) -> None:
    rng = random.Random(count)
    items = [(f"{rng.randrange(1000)}-k\u00e4se-\udce9\n.jpg", rng.randrange(10**6)) for _ in range(count)]
    assert list(long_sorted(iter(items), most)) == sorted(items)
    assert open_files() == 0


def test_a_disk_too_small_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(UserError, match=r"disk: cannot write: No space left on device; free some") as refused:
            list(long_sorted(((f"{number:09d}.jpg", number) for number in range(10_000)), 1_000))
    assert "\n" not in str(refused.value)


def test_one_who_stops_early_leaves_no_file_open(open_files: Callable[[], int]) -> None:
    found = long_sorted(((f"{number:04d}", number) for number in range(1000, 0, -1)), 100)
    assert [next(found), next(found)] == [("0001", 1), ("0002", 2)]
    assert open_files() == 10
    found.close()  # type: ignore[attr-defined]
    assert open_files() == 0
