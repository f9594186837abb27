"""Work done by a few threads, its results in order: hides the latency of a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

THREADS = 8


def in_order[T, R](work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """work(item) for each item, in order, up to THREADS at a time; takes few items ahead of what is consumed."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > THREADS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # the consumer stopped, or an item failed: what has not begun need not
            for future in pending:
                future.cancel()
