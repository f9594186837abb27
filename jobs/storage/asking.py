"""A question with a limit, for clients that wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread


def ask[R](question: Callable[[], R], seconds: float) -> R:
    """The answer; raises TimeoutError where none comes. What was asked goes on in a thread of its own."""
    answer: Future[R] = Future()

    def wait() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=wait, daemon=True).start()
    return answer.result(seconds)
