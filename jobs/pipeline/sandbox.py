"""Decode in a process of its own: for chunks whose task died before, so that the image that kills it becomes an error."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

import numpy as np

from jobs.pipeline.decode import DecodeError, decode
from vit_actor.preprocess import Preprocess

LIMIT_SECONDS = 60.0
"""No image within decode's bounds takes a tenth of it on an idle core."""


class Sandbox:
    """Holds the process; a new one replaces each that an image kills."""

    def __enter__(self) -> Sandbox:
        self._pool = self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def decode(self, data: bytes | memoryview, preprocess: Preprocess, out: np.ndarray) -> None:
        """As jobs.pipeline.decode.decode, with a DecodeError also for what kills its process or takes LIMIT_SECONDS."""
        answer = self._pool.submit(_decoded, bytes(data), preprocess)
        try:
            out[:] = answer.result(LIMIT_SECONDS)
        except BrokenProcessPool:
            self._pool = self._start()
            raise DecodeError("decoding it kills the process") from None
        except FutureTimeout:
            for process in list(self._pool._processes.values()):
                process.kill()
            self._pool = self._start()
            raise DecodeError(f"decoding it takes longer than {LIMIT_SECONDS:g} s") from None

    @staticmethod
    def _start() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _decoded(data: bytes, preprocess: Preprocess) -> np.ndarray:
    out = np.empty(preprocess.shape, np.uint8)
    decode(data, preprocess, out)
    return out
