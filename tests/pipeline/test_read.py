"""Decoding a chunk: its memory is used again, but never while anybody still holds it."""

import numpy as np

from jobs.pipeline.chunk import Chunk
from jobs.pipeline.read import decode_chunk
from jobs.pipeline.sources import EncodedImage
from tests.pipeline.corpus import jpeg
from vit_actor.preprocess import Preprocess

PIXELS = Preprocess(32, 32, 2, scale=(1 / 127.5,) * 3, shift=(-1.0,) * 3)


def decoded(*seeds: int) -> Chunk:
    return decode_chunk("a chunk", enumerate(EncodedImage(f"{seed}", None, jpeg(seed)) for seed in seeds), PIXELS)[0]


def address(pixels: np.ndarray) -> int:
    return pixels.__array_interface__["data"][0]


def test_a_chunk_that_is_held_as_pixels_or_as_a_table_keeps_them_whatever_is_decoded_next() -> None:
    first = decoded(1, 2)
    expected = first.pixels.copy()
    table = first.to_table()
    second = decoded(3, 4)
    assert np.array_equal(first.pixels, expected)
    assert not np.array_equal(second.pixels, expected)
    del first
    third = decoded(5, 6)
    assert np.array_equal(Chunk.from_table(table).pixels, expected)
    assert len({address(chunk.pixels) for chunk in (second, third, Chunk.from_table(table))}) == 3


def test_the_memory_of_a_chunk_that_nobody_holds_is_the_next_ones() -> None:
    table = decoded(1).to_table()
    used = address(Chunk.from_table(table).pixels)
    del table
    assert address(decoded(2).pixels) == used
