"""One image cannot hold up or take down a chunk: alone in a process it becomes an error, and with others it ends its task."""

import os
import signal
import time

import numpy as np
import pytest

from jobs.pipeline import sandbox
from jobs.pipeline.read import decode_chunk
from jobs.pipeline.sandbox import sandboxed
from jobs.pipeline.sources import EncodedImage
from tests.commands import run_code
from tests.photographs import encoded, photograph
from vit_actor.preprocess import Preprocess

PREPROCESS = Preprocess.from_config({})
decoded = sandbox._decoded


def with_holes(data: bytes, preprocess: Preprocess) -> np.ndarray:
    """Decoding by a library that one image kills and another never leaves."""
    if data == b"deadly":
        os.abort()
    if data == b"endless":
        time.sleep(1000)
    return decoded(data, preprocess)


def test_alone_in_a_process_deadly_and_endless_images_are_errors_and_the_others_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_decoded", with_holes)
    # The first image in each new process also waits for the import of this module, pytest and all.
    monkeypatch.setattr(sandbox, "LIMIT_SECONDS", 12.0)
    sound = encoded(photograph(0, 64, 64))
    images = [EncodedImage(str(n), None, data) for n, data in enumerate([sound, b"deadly", b"endless", b"", sound])]

    with sandboxed() as alone:
        chunk, _ = decode_chunk("chunk", enumerate(images), PREPROCESS, alone)

    killed, endless = "decoding it kills the process", "decoding it takes longer than 12 s"
    assert chunk.errors == [None, killed, endless, "empty file", None]
    np.testing.assert_array_equal(chunk.pixels, np.stack([decoded(sound, PREPROCESS)] * 2))


def test_a_decoder_that_never_returns_ends_its_process_and_slow_reading_does_not() -> None:
    script = """
import ctypes, time
from jobs.pipeline import sandbox
from jobs.pipeline.read import decode_chunk
from jobs.pipeline.sources import EncodedImage
from vit_actor.preprocess import Preprocess

def read(*seconds):
    for count in seconds:
        time.sleep(1.2)
        yield EncodedImage(f"{count}", None, bytes(count))

# PyDLL keeps the interpreter's lock, as a decoder may that never lets another thread run.
sandbox.decode = lambda data, preprocess, out: ctypes.PyDLL(None).sleep(len(data))
sandbox.LIMIT_SECONDS = 2.0
for images in (read(0, 0, 0), read(100)):
    chunk, _ = decode_chunk("chunk", enumerate(images), Preprocess.from_config({}), sandbox.time_limited)
    print("read", len(chunk.image_ids), flush=True)
"""
    done = run_code(script)
    assert (done.code, done.stdout) == (-signal.SIGALRM, "read 3\n"), done.stderr
