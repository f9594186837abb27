"""A limit on the time and the harm of one image: what takes too long or kills its process becomes an error."""

import faulthandler
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from pebble import ProcessExpired, ProcessPool

from jobs.pipeline.decode import Decode, DecodeError, decode
from vit_actor.preprocess import Preprocess

LIMIT_SECONDS = 60.0  # No image within decode's bounds takes a tenth of it on an idle core


def time_limited(data: bytes | memoryview, preprocess: Preprocess, out: np.ndarray) -> None:
    """As `decode`, in this process, which ends when the image takes LIMIT_SECONDS.

    Ray then repeats the task, and the third time it is `sandboxed`, where the image alone is given up. The kernel's timer also
    ends a process whose decoder never lets Python run again; where it was is written to the worker's log.
    """
    _say_where_it_hangs()
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        decode(data, preprocess, out)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@cache
def _say_where_it_hangs() -> None:
    """Once a process: the signal's traceback goes to standard error, and the process ends."""
    faulthandler.register(signal.SIGALRM, chain=True)


@contextmanager
def sandboxed() -> Iterator[Decode]:
    """Decodes in a process of its own; a new one replaces each that an image kills.

    Raises DecodeError also for what kills its process or takes LIMIT_SECONDS.
    """
    pool = ProcessPool(1, context=multiprocessing.get_context("spawn"))

    def alone(data: bytes | memoryview, preprocess: Preprocess, out: np.ndarray) -> None:
        answer = pool.schedule(_decoded, (bytes(data), preprocess), timeout=LIMIT_SECONDS)
        try:
            out[:] = answer.result()
        except ProcessExpired:
            raise DecodeError("decoding it kills the process") from None
        except TimeoutError:
            raise DecodeError(f"decoding it takes longer than {LIMIT_SECONDS:g} s") from None

    try:
        yield alone
    finally:
        pool.stop()
        pool.join()


def _decoded(data: bytes, preprocess: Preprocess) -> np.ndarray:
    out = np.empty(preprocess.shape, np.uint8)
    decode(data, preprocess, out)
    return out
