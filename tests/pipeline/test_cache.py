"""The cache of decoded chunks: what comes out of it is what decoding gives, or it is not used."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.pipeline.cache import Cache, stored_bytes
from jobs.pipeline.chunk import Chunk
from jobs.pipeline.read import decode_chunk
from jobs.pipeline.sources import EncodedImage
from tests.pipeline.corpus import jpeg
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

PIXELS = Preprocess(32, 32, 2, scale=(1 / 127.5,) * 3, shift=(-1.0,) * 3)


def decoded(name: str = "shard.00000") -> Chunk:
    images = [EncodedImage("a.jpg", 3, jpeg(1)), EncodedImage("ü b.jpg", None, b"damaged"), EncodedImage("c.jpg", 0, jpeg(2))]
    return decode_chunk(name, enumerate(images), PIXELS)[0]


def same(one: Chunk, other: Chunk) -> bool:
    names = ("name", "image_ids", "labels", "errors")
    return np.array_equal(one.pixels, other.pixels) and all(getattr(one, name) == getattr(other, name) for name in names)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache.of(str(tmp_path / "cache"), "fingerprint", PIXELS, ("a", "b"))


@pytest.mark.parametrize("chunk", [decoded(), decode_chunk("none decoded", [(0, EncodedImage("x", None, b""))], PIXELS)[0]])
def test_a_chunk_comes_back_as_it_was_kept(cache: Cache, chunk: Chunk) -> None:
    assert cache.load(chunk.name) is None
    cache.keep(chunk)
    kept = cache.load(chunk.name)
    assert kept
    assert same(kept, chunk)
    assert stored_bytes(cache.uri) >= chunk.pixels.nbytes


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:],
        lambda data: data[:8192] + data[4096:8192] + data[12288:],
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "half", "a byte short", "a byte more", "a bit", "a page twice", "zeros"],
)
def test_what_is_damaged_is_not_used(cache: Cache, harm: Callable[[bytes], bytes]) -> None:
    rng = np.random.default_rng(0)
    cache.keep(Chunk("big", ["x"] * 8, [None] * 8, [None] * 8, rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)))
    [file] = Path(cache.uri).rglob("*.arrow")
    file.write_bytes(harm(file.read_bytes()))
    assert cache.load("big") is None


def test_a_file_of_another_chunk_under_this_name_is_not_used(cache: Cache) -> None:
    cache.keep(decoded("one"))
    [file] = Path(cache.uri).rglob("*.arrow")
    file.rename(file.with_name("two.arrow"))
    assert cache.load("two") is None


@pytest.mark.parametrize(
    "other",
    [
        lambda uri: Cache.of(uri, "another fingerprint", PIXELS, ("a", "b")),
        lambda uri: Cache.of(uri, "fingerprint", replace(PIXELS, resample=3), ("a", "b")),
        lambda uri: Cache.of(uri, "fingerprint", replace(PIXELS, height=48), ("a", "b")),
        lambda uri: Cache.of(uri, "fingerprint", PIXELS, ("b", "a")),
    ],
    ids=["data", "resampling", "size", "classes"],
)
def test_other_data_preprocessing_or_classes_find_nothing(cache: Cache, other: Callable[[str], Cache]) -> None:
    cache.keep(decoded())
    assert other(cache.uri).load("shard.00000") is None


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cache"):
        Cache.of(str(tmp_path / "cache"), "fingerprint", PIXELS, ("a", "b")).keep(decoded())


def test_what_storage_failed_to_give_is_not_lasting() -> None:
    assert decoded().lasting
    assert not decode_chunk("x", [(0, EncodedImage("a", None, b"", "cannot be read: timeout"))], PIXELS)[0].lasting
