"""Waiting for something that another process brings about."""

from collections.abc import Callable

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed


def wait_until[T](true: Callable[[], T], limit: float = 240.0, every: float = 0.2) -> T:
    """Ask until the answer is true, and give it; raises tenacity.RetryError when it is not within `limit` seconds."""
    retrying = Retrying(retry=retry_if_result(lambda answer: not answer), stop=stop_after_delay(limit), wait=wait_fixed(every))
    return retrying(true)
