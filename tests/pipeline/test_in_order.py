"""Reading ahead: where asked for while a store answers at once, side by side once it is slow, in order either way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from jobs.pipeline.sources.in_order import QUICK_SECONDS, THREADS, in_order


def slowly(work: Callable[[int], int]) -> Callable[[int], int]:
    """The first item keeps its reader waiting; the others do what `work` does."""

    def run(item: int) -> int:
        if item == 0:
            time.sleep(4 * QUICK_SECONDS)
            return 0
        return work(item)

    return run


def test_quick_items_are_done_on_the_callers_thread_as_they_are_asked_for() -> None:
    asked: list[int] = []

    def work(item: int) -> int:
        asked.append(threading.get_ident())
        return item

    results = in_order(work, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert asked == [threading.get_ident()] * 3


def test_after_a_slow_item_as_many_as_there_are_threads_are_under_way_together() -> None:
    together = threading.Barrier(THREADS, timeout=60)

    def work(item: int) -> int:
        if item <= THREADS:
            together.wait()
        return item

    assert list(in_order(slowly(work), range(50))) == list(range(50))


def test_a_store_that_turns_slow_later_gets_threads_then() -> None:
    threads: set[int] = set()

    def work(item: int) -> int:
        threads.add(threading.get_ident())
        if item >= 10:
            time.sleep(4 * QUICK_SECONDS)
        return item

    assert list(in_order(work, range(60))) == list(range(60))
    assert len(threads) > 2


@pytest.mark.parametrize("slow", [False, True])
def test_what_an_item_raises_arrives_in_its_turn_and_the_rest_is_left(slow: bool) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 5:
            raise OSError("gone")
        return item

    results = in_order(slowly(work) if slow else work, range(1000))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="gone"):
        next(results)
    assert len(begun) < 100


def test_no_items_are_no_results() -> None:
    assert list(in_order(lambda item: item, [])) == []
