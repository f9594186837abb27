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


def archive(first: int, last: int, record: int = tarfile.RECORDSIZE) -> bytes:
    """Some of IMAGES, filled up with zeros to a multiple of `record` bytes."""
    body = io.BytesIO()
    for n in range(first, last):
        info = tarfile.TarInfo(f"{n:02}.jpg")
        info.size = len(IMAGES[n].data)
        body.write(info.tobuf() + IMAGES[n].data + bytes(-len(IMAGES[n].data) % 512))
    body.write(bytes(1024))
    return body.getvalue() + bytes(-body.tell() % record)


def read(tmp_path: Path, data: bytes, kind: str = "tar") -> list[EncodedImage]:
    """What is read of a tar that comes after a sound one: if the first has nothing, the data set is refused."""
    (tmp_path / "a.tar").write_bytes(archive(0, 3))
    (tmp_path / f"x.{kind}").write_bytes(data)
    found = read_all(opened(tmp_path, labels="none"))
    assert names(found[:3]) == ALL[:3]
    return found[3:]


def names(images: list[EncodedImage]) -> list[str]:
    return [image.image_id.rpartition("/")[2] for image in images if image.error is None]


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("record", [512, 1024, 10240, 32768, 1 << 20])
def test_an_end_as_writers_make_it_is_no_error(tmp_path: Path, kind: str, record: int) -> None:
    found = read(tmp_path, PACKED[kind](archive(0, 12, record)), kind)
    assert names(found) == ALL
    assert len(found) == 12


@pytest.mark.parametrize("kind", PACKED)
def test_archives_put_together_are_read_one_after_the_other(tmp_path: Path, kind: str) -> None:
    pack = PACKED[kind]
    found = read(tmp_path, pack(archive(0, 4)) + pack(archive(4, 8, 512)) + pack(archive(8, 12)), kind)
    assert names(found) == ALL
    assert len(found) == 12


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: bytes(len(data)),
        lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
        lambda data: data[:5120] + bytes(20_480) + data[25_600:],
        lambda data: data + bytes(3 << 20),
        lambda data: data + b"bytes of no file",
        lambda data: data[:-10240] + b"x" * 10240,
    ],
    ids=["zeros alone", "zeros from the middle on", "zeros in the midst", "a long end of zeros", "garbage", "garbage for an end"],
)
def test_zeros_and_garbage_where_files_may_have_been_are_one_error(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    found = read(tmp_path, spoil(archive(0, 12)))
    assert [image.image_id for image in found if image.error and "the tar is damaged" in image.error] == ["x.tar"]


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


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (found,) = read(tmp_path, b"")
    assert found.error == "the tar is damaged: the file is empty; 0 images before that"
