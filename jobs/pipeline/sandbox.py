"""A limit on the time and the harm of one image: what takes too long or kills its process becomes an error."""

import faulthandler
import multiprocessing
import threading
import time
from typing import Self

import numpy as np
from pebble import ProcessExpired, ProcessPool

from jobs.pipeline.decode import DecodeError, decode
from vit_actor.preprocess import Preprocess

LIMIT_SECONDS = 60.0
"""No image within decode's bounds takes a tenth of it on an idle core."""


class TimeLimit:
    """Decodes in this process, and ends it when one image takes LIMIT_SECONDS (and up to a second more).

    Ray then repeats the task, and the third time in a Sandbox, where the image alone is given up. The timer is
    faulthandler's, which fires even where a decoder never lets Python run again; it is put back once a second, since doing
    that for every image would cost a thirtieth of its decoding.
    """

    def __enter__(self) -> Self:
        self._began: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def decode(self, data: bytes | memoryview, preprocess: Preprocess, out: np.ndarray) -> None:
        """As jobs.pipeline.decode.decode."""
        self._began = time.monotonic()
        try:
            decode(data, preprocess, out)
        finally:
            self._began = None

    def _watch(self) -> None:
        at: float | None = None
        while True:
            if self._began is None or self._began != at:
                at = self._began
                faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
            if self._ended.wait(1.0):
                return


class Sandbox:
    """Decodes in a process of its own; a new one replaces each that an image kills."""

    def __enter__(self) -> Self:
        self._pool = ProcessPool(1, context=multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.stop()
        self._pool.join()

    def decode(self, data: bytes | memoryview, preprocess: Preprocess, out: np.ndarray) -> None:
        """As jobs.pipeline.decode.decode, with a DecodeError also for what kills its process or takes LIMIT_SECONDS."""
        answer = self._pool.schedule(_decoded, (bytes(data), preprocess), timeout=LIMIT_SECONDS)
        try:
            out[:] = answer.result()
        except ProcessExpired:
            raise DecodeError("decoding it kills the process") from None
        except TimeoutError:
            raise DecodeError(f"decoding it takes longer than {LIMIT_SECONDS:g} s") from None


def _decoded(data: bytes, preprocess: Preprocess) -> np.ndarray:
    out = np.empty(preprocess.shape, np.uint8)
    decode(data, preprocess, out)
    return out
