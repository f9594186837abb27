"""Work done in order, ahead of who asks for it: by threads where it waits for a store, by processes where it computes long."""

import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

THREADS, SURVEY_THREADS, PROCESSES = 8, 64, 16
"""At most: of one of many readers, of the one survey, whose every item is a request or two, and of processes."""
QUICK_SECONDS = 0.5e-3
"""An item that waits no longer is done where it is asked for: a thread would cost as much as it hides. Eight files of 80 KB
take 0.1 ms from the page cache."""
LONG_SECONDS = 3.0  # After so much CPU time, starting processes (0.6 s until they answer) pays


def in_order[T, R](work: Callable[[T], R], items: Iterable[T], *, survey: bool = False) -> Iterator[R]:
    """work(item) for each item, in order. It begins where it is asked for.

    Once items wait for their store, and longer than they compute, up to THREADS are worked on at a time: threads hide waiting.
    They would slow computing down, which one thread of Python does at a time.
    survey: whether nothing else goes on meanwhile. Then up to SURVEY_THREADS wait, and after LONG_SECONDS of computing other
        cores take part; work and items must pickle.
    """
    threads = SURVEY_THREADS if survey else THREADS
    items, waited, used = iter(items), 0.0, 0.0
    for item in items:
        began, own, blocks = time.monotonic(), time.thread_time(), _blocks()
        result = work(item)
        computed = time.thread_time() - own
        idle, slow = time.monotonic() - began - computed, _blocks() > blocks
        waited, used = waited + idle, used + computed
        yield result
        if slow and idle > QUICK_SECONDS and waited > used:
            yield from _ahead(ThreadPoolExecutor(threads), threads, work, items)
        elif survey and used > LONG_SECONDS and (cores := len(os.sched_getaffinity(0))) > 1:
            # Processes of their own start, not forks: this one may have threads that hold locks.
            cores = min(cores, PROCESSES)
            pool = ProcessPoolExecutor(cores, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
            yield from _ahead(pool, 2 * cores, work, items)


def _blocks() -> int:
    """How often this thread has given its core away to wait; on a busy machine it is also made to, which threads do not help."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _ahead[T, R](pool: Executor, most: int, work: Callable[[T], R], items: Iterator[T]) -> Iterator[R]:
    """The same with up to `most` items under way."""
    pending: deque[Future[R]] = deque()
    with pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > most:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # the consumer stopped, or an item failed: what has not begun need not
            for future in pending:
                future.cancel()
