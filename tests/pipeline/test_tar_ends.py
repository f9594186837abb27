"""A tar is read to its last byte: what hides images behind its end is told, and what ends it as writers do is not."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.pipeline.sources import EncodedImage
from tests.pipeline.corpus import opened, pictures, read_all

IMAGES = pictures(12)
PACKED: dict[str, Callable[[bytes], bytes]] = {"tar": bytes, "tar.gz": gzip.compress, "tgz": gzip.compress}
PACKED |= {"tar.bz2": bz2.compress, "tar.xz": lzma.compress}
ZEROS = [4, 4 << 10, 20 << 10, 1 << 20]
COMPRESSED = ["tar.gz", "tar.bz2", "tar.xz"]
ALL = [f"{n:02}.jpg" for n in range(12)]


def body(first: int, last: int) -> bytes:
    """Some of IMAGES as members of a tar, without its end."""
    out = io.BytesIO()
    for n in range(first, last):
        info = tarfile.TarInfo(f"{n:02}.jpg")
        info.size = len(IMAGES[n].data)
        out.write(info.tobuf() + IMAGES[n].data + bytes(-len(IMAGES[n].data) % 512))
    return out.getvalue()


def archive(first: int, last: int, record: int = tarfile.RECORDSIZE) -> bytes:
    """The same, filled up with zeros to a multiple of `record` bytes."""
    data = body(first, last) + bytes(1024)
    return data + bytes(-len(data) % record)


def read(tmp_path: Path, data: bytes, kind: str = "tar") -> list[EncodedImage]:
    """What is read of a tar that comes after a sound one: if the first has nothing, the data set is refused."""
    (tmp_path / "a.tar").write_bytes(archive(0, 3))
    (tmp_path / f"x.{kind}").write_bytes(data)
    found = read_all(opened(tmp_path, labels="none"))
    assert names(found[:3]) == ALL[:3]
    return found[3:]


def names(images: list[EncodedImage]) -> list[str]:
    return [image.image_id.rpartition("/")[2] for image in images if image.error is None]


def in_three(pack: Callable[[bytes], bytes]) -> bytes:
    """Archives put together as `cat` does."""
    return pack(archive(0, 4)) + pack(archive(4, 8, 512)) + pack(archive(8, 12))


SOUND = {str(record): lambda pack, record=record: pack(archive(0, 12, record)) for record in (512, 1024, 10240, 32768, 1 << 20)}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("made", [*SOUND.values(), in_three], ids=[*SOUND, "in three"])
def test_an_end_as_writers_make_it_is_no_error(tmp_path: Path, kind: str, made: Callable[..., bytes]) -> None:
    found = read(tmp_path, made(PACKED[kind]), kind)
    assert names(found) == ALL
    assert len(found) == 12


SPOILT = {
    "zeros alone": bytes(len(archive(0, 12))),
    "zeros from the middle on": (whole := archive(0, 12))[: len(whole) // 2] + bytes(len(whole) // 2),
    "zeros in the midst": whole[:5120] + bytes(20_480) + whole[25_600:],
    "zeros for some files": body(0, 3) + bytes(len(body(3, 6))) + archive(6, 12),
    "a long end of zeros": whole + bytes(3 << 20),
    "garbage": whole + b"bytes of no file",
    "garbage for an end": whole[:-10240] + b"x" * 10240,
    "nothing": b"",
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_zeros_and_garbage_where_files_may_have_been_are_one_error(tmp_path: Path, spoilt: str) -> None:
    found = read(tmp_path, SPOILT[spoilt])
    assert [image.image_id for image in found if image.error and "the tar is damaged" in image.error] == ["x.tar"]
    assert SPOILT[spoilt] or found[0].error == "the tar is damaged: the file is empty; 0 images before that"


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("behind", [b"x", b"garbage" * 40, b"garbage" * 10_000, bytes(4) + b"x", *map(bytes, ZEROS)])
def test_zeros_behind_a_compressed_tar_are_no_error_and_all_else_is_one(tmp_path: Path, kind: str, behind: bytes) -> None:
    found = read(tmp_path, PACKED[kind](archive(0, 12)) + behind, kind)
    assert names(found) == ALL
    assert [image.error is not None for image in found] == [False] * 12 + [True] * any(behind)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_compressed_tar_that_is_cut_off_is_one_error_at_its_end(tmp_path: Path, kind: str) -> None:
    found = read(tmp_path, PACKED[kind](archive(0, 12))[:-200], kind)
    assert found[-1].error
    assert names(found) == ALL[: len(names(found))]
