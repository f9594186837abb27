"""A limit on the time and the harm of one image: what takes too long or kills its process becomes an error."""

import faulthandler
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from pebble import ProcessExpired, ProcessPool

from jobs.pipeline.decode import Decode, DecodeError, decode
from vit_actor.preprocess import Preprocess

LIMIT_SECONDS = 60.0  # No image within decode's bounds takes a tenth of it on an idle core


@contextmanager
def time_limited() -> Iterator[Decode]:
    """Decodes in this process, and ends it when one image takes LIMIT_SECONDS (and up to a second more).

    Ray then repeats the task, and the third time it is `sandboxed`, where the image alone is given up. The timer is
    faulthandler's, which fires even where a decoder never lets Python run again; it is put back once a second, since doing
    that for every image would cost a thirtieth of its decoding.
    """
    began: float | None = None
    ended = threading.Event()

    def limited(data: bytes | memoryview, preprocess: Preprocess, out: np.ndarray) -> None:
        nonlocal began
        began = time.monotonic()
        try:
            decode(data, preprocess, out)
        finally:
            began = None

    def watch() -> None:
        at: float | None = None
        while True:
            if began is None or began != at:
                at = began
                faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
            if ended.wait(1.0):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield limited
    finally:
        ended.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()


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
