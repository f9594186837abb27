"""Work in order: where asked for at first, by threads once a store is slow, by processes once it computes long."""

import os
import threading
import time

import pytest

from jobs.pipeline.sources import in_order as module
from jobs.pipeline.sources.in_order import QUICK_SECONDS, SURVEY_THREADS, THREADS, in_order


def waits(item: int) -> int:
    time.sleep(4 * QUICK_SECONDS)
    return item


def test_quick_items_are_done_on_the_callers_thread_as_they_are_asked_for() -> None:
    asked: list[int] = []

    def work(item: int) -> int:
        asked.append(threading.get_ident())
        return item

    results = in_order(work, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert asked == [threading.get_ident()] * 3


@pytest.mark.parametrize("first", [0, 10])
@pytest.mark.parametrize(("survey", "threads"), [(False, THREADS), (True, SURVEY_THREADS)])
def test_once_items_are_slow_as_many_as_there_are_threads_are_under_way_together(survey: bool, threads: int, first: int) -> None:
    together, items = threading.Barrier(threads, timeout=60), range(first + 150)

    def work(item: int) -> int:
        if first < item <= first + threads:
            together.wait()
        return waits(item) if item == first else item

    assert list(in_order(work, items, survey=survey)) == list(items)


def compute(item: int) -> tuple[int, int, int]:
    """The item, after several times the waiting that threads would hide; where it was done."""
    end = time.thread_time() + 8 * QUICK_SECONDS
    while time.thread_time() < end:
        pass
    if item == 40:
        raise OSError("gone")
    return item, os.getpid(), threading.get_ident()


def test_what_computes_stays_on_the_callers_thread_and_is_shared_by_processes_if_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {thread for _, _, thread in in_order(compute, range(30))} == {threading.get_ident()}
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
        return waits(item) if slow and item == 0 else item

    results = in_order(work, range(1000))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="gone"):
        next(results)
    assert len(begun) < 100
