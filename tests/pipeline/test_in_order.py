"""Work in order: where asked for at first, by threads once a store is slow, by processes once it computes long."""

import os
import threading
import time
from collections.abc import Callable

import pytest

from jobs.pipeline.sources import in_order as module
from jobs.pipeline.sources.in_order import QUICK_SECONDS, SURVEY_THREADS, THREADS, in_order


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


@pytest.mark.parametrize(("survey", "threads"), [(False, THREADS), (True, SURVEY_THREADS)])
def test_after_a_slow_item_as_many_as_there_are_threads_are_under_way_together(survey: bool, threads: int) -> None:
    together = threading.Barrier(threads, timeout=60)

    def work(item: int) -> int:
        if 0 < item <= threads:
            together.wait()
        return item

    assert list(in_order(slowly(work), range(150), survey=survey)) == list(range(150))


def test_a_store_that_turns_slow_later_gets_threads_then() -> None:
    threads: set[int] = set()

    def work(item: int) -> int:
        threads.add(threading.get_ident())
        if item >= 10:
            time.sleep(4 * QUICK_SECONDS)
        return item

    assert list(in_order(work, range(60))) == list(range(60))
    assert len(threads) > 2


def compute(item: int) -> tuple[int, int, int]:
    """The item, after several times the waiting that threads would hide; where it was done."""
    end = time.thread_time() + 8 * QUICK_SECONDS
    while time.thread_time() < end:
        pass
    if item == 40:
        raise OSError("gone")
    return item, os.getpid(), threading.get_ident()


def test_what_computes_and_does_not_wait_stays_on_the_callers_thread() -> None:
    assert {thread for _, _, thread in in_order(compute, range(30))} == {threading.get_ident()}


def test_what_computes_long_is_shared_by_processes_where_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_SECONDS", 20 * QUICK_SECONDS)
    results = in_order(compute, range(100), survey=True)
    done = [next(results) for _ in range(40)]
    assert [item for item, _, _ in done] == list(range(40))
    assert done[0][1] == os.getpid() != done[-1][1]
    with pytest.raises(OSError, match="gone"):
        next(results)


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
