"""Tar shards: labels beside images, nothing unpacked, and damage that costs what is damaged."""

import tarfile
from pathlib import Path

import pytest

from jobs.pipeline.sources import surveyed
from tests.pipeline.corpus import WNIDS, labels_of, opened, pictures, read_all, refusal, tar

IMAGES = pictures(6)


def size_of(members: list[tuple[str, bytes]]) -> int:
    """Bytes that members take in a tar, which may be cut off behind them."""
    return sum(512 + -(-len(data) // 512) * 512 for _, data in members)


def members(label: str = "cls") -> list[tuple[str, bytes]]:
    return [pair for i in IMAGES for pair in ((i.name, i.data), (f"{Path(i.name).stem}.{label}", str(i.label).encode()))]


def test_names_with_dots_folders_and_repeats_keep_every_image_apart(tmp_path: Path) -> None:
    names = ["cam.1.jpg", "cam.1.cls", "cam.2.jpg", "cam.2.cls", "b/cam.1.jpg", "b/cam.1.cls", "cam.1.jpg", "cam.1.cls"]
    data = [IMAGES[0].data, b"1", IMAGES[1].data, b"2", IMAGES[2].data, b"3", IMAGES[3].data, b"4"]
    images = read_all(opened(tar(tmp_path / "x.tar", list(zip(names, data, strict=True)))))
    ids = ["x.tar/cam.1.jpg", "x.tar/cam.2.jpg", "x.tar/b/cam.1.jpg", "x.tar/cam.1.jpg#2"]
    assert [(image.image_id, image.label) for image in images] == list(zip(ids, [1, 2, 3, 4], strict=True))


def test_of_many_names_with_dots_each_label_finds_its_image_and_none_is_left_out(tmp_path: Path) -> None:
    pairs = [((f"photo.{n:03d}.jpg", IMAGES[n % 6].data), (f"photo.{n:03d}.cls", b"%d" % (n % 7))) for n in range(50)]
    for order in (1, -1):  # the label after its image, and before
        source = opened(tar(tmp_path / "x.tar", [member for pair in pairs for member in pair[::order]]))
        assert labels_of(source) == [n % 7 for n in range(50)]
        assert surveyed(source).left_out == {}
        some = read_all(source, lambda ordinal: ordinal % 3 == 0)
        assert [(image.label, image.data) for image in some] == [(n % 7, IMAGES[n % 6].data) for n in range(0, 50, 3)]


def test_hostile_members_write_nothing_and_links_out_of_the_tar_are_not_followed(tmp_path: Path) -> None:
    files = [(name, IMAGES[0].data) for name in ("../escaped.jpg", f"{tmp_path}/absolute.jpg")]
    links = [("link.jpg", (kind, "/etc/passwd")) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)]
    images = read_all(opened(tar(tmp_path / "data" / "x.tar", [*files, *links]).parent))
    ids = ["x.tar/../escaped.jpg", f"x.tar/{tmp_path}/absolute.jpg", "x.tar/link.jpg", "x.tar/link.jpg#2"]
    lost = "a link to /etc/passwd, which is not before it in the tar"
    assert [(image.image_id, image.error) for image in images] == list(zip(ids, [None, None, lost, lost], strict=True))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "data" / "x.tar"]


@pytest.mark.parametrize("wanted", [True, False], ids=["reading", "skipping"])
def test_a_truncated_tar_keeps_what_came_before_and_says_where_it_ends(tmp_path: Path, wanted: bool) -> None:
    path = tar(tmp_path / "x.tar", members())
    path.write_bytes(path.read_bytes()[: size_of(members()[:6]) + 512 + 100])  # inside the bytes of the fourth image
    *before, end = read_all(opened(path), lambda i: wanted or i == 4)
    assert end.image_id == "x.tar"
    assert "damaged" in (end.error or "")
    whole = [(image.label, image.data, None) for image in IMAGES[:3]]
    found = [(image.label, image.data, image.error) for image in before[:3]]
    assert found == (whole if wanted else [])
    assert [image.error for image in before[3:]] == ["the tar ends inside this image"] * wanted


def test_a_tar_without_its_end_marker_is_whole_and_an_overwritten_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", members())
    data, at = path.read_bytes(), size_of(members()[:4])
    path.write_bytes(data[: size_of(members())])
    assert [image.error for image in read_all(opened(path))] == [None] * 6
    path.write_bytes(data[:at] + b"\x99" * 512 + data[at + 512 :])
    images = read_all(opened(path))
    assert [image.error is None for image in images] == [True, True, False]
    assert "2 images before that" in (images[2].error or "")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"{", b"x" * (2**20 + 1)], ids=["not text", "deep", "cut", "vast"]
)
def test_a_label_that_cannot_be_read_costs_one_image_at_most(tmp_path: Path, content: bytes) -> None:
    extra = [("z.jpg", IMAGES[0].data), ("z.json", content)]
    images = read_all(opened(tar(tmp_path / "x.tar", members("json") + extra)))
    assert [image.label for image in images] == [i.label for i in IMAGES] + [None]
    assert images[-1].error == (None if len(content) > 2**20 else "its label cannot be read")


@pytest.mark.parametrize(
    ("data", "says"), [(b"", "not a readable tar"), (b"junk" * 1000, "not a readable tar"), (None, "hold no images")]
)
def test_what_is_no_tar_of_images_ends_before_any_work(tmp_path: Path, data: bytes | None, says: str) -> None:
    path = tar(tmp_path / "x.tar", [("readme.txt", b"x")])
    if data is not None:
        path.write_bytes(data)
    assert says in refusal(path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_links_to_earlier_files_of_the_tar_are_followed(tmp_path: Path, suffix: str) -> None:
    links = [
        ("b/hard.jpg", (tarfile.LNKTYPE, "a/1.jpg")),
        ("b/soft.jpg", (tarfile.SYMTYPE, "../a/2.jpg")),
        ("b/chain.jpg", (tarfile.SYMTYPE, "soft.jpg")),
        ("b/forward.jpg", (tarfile.SYMTYPE, "later.jpg")),
    ]
    a, b, c, d = (image.data for image in IMAGES[:4])
    tar(tmp_path / f"x{suffix}", [("a/0.jpg", a), ("a/1.jpg", b), ("a/2.jpg", c), *links, ("c.jpg", d)])
    images = read_all(opened(tmp_path))
    assert [bytes(image.data) for image in images] == [a, b, c, b, c, c, b"", d]
    assert [image.error is None for image in images] == [True] * 6 + [False, True]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("s0.jpg", 0), ("s0.seg.png", 1), ("s0.cls", b"2")], [("s0.jpg", 2)]),
        ([("s0.depth.png", 1), ("s0.jpg", 0), ("s0.cls", b"2")], [("s0.jpg", 2)]),
        ([(f"d/x_{WNIDS[5]}.JPEG", 0)], [(f"d/x_{WNIDS[5]}.JPEG", 5)]),
        ([("__MACOSX/._s0.jpg", 1), ("s0.jpg", 0), ("_tmp/s1.jpg", 1)], [("s0.jpg", None)]),
        ([("v1.2.jpg", 0), ("v1.3.jpg", 1)], [("v1.2.jpg", None), ("v1.3.jpg", None)]),
        ([("..", 1), ("../..", 1), ("s0.jpg", 0)], [("s0.jpg", None)]),
    ],
)
def test_a_samples_image_and_its_label_are_told_by_what_follows_the_first_dot(
    tmp_path: Path, members: list[tuple[str, int | bytes]], expected: list[tuple[str, int | None]]
) -> None:
    contents = [(name, IMAGES[what].data if isinstance(what, int) else what) for name, what in members]
    images = read_all(opened(tar(tmp_path / "x.tar", contents)))
    assert [(image.image_id.removeprefix("x.tar/"), image.label) for image in images] == expected
    assert all(image.error is None for image in images)


def gnu_header(kind: bytes, size: int) -> bytearray:
    info = tarfile.TarInfo("vast.jpg")
    info.type, info.size = kind, size
    return bytearray(info.tobuf(format=tarfile.GNU_FORMAT))


def long_name(size: int, data: bytes = b"") -> bytes:
    """A GNU header that says that a name of so many bytes follows."""
    return bytes(gnu_header(tarfile.GNUTYPE_LONGNAME, size)) + data.ljust(-(-len(data) // 512) * 512, b"\0")


def sparse() -> bytes:
    """A file of GNU's that claims 200 MiB of which none is stored."""
    header = gnu_header(tarfile.GNUTYPE_SPARSE, 0)
    header[483:495] = f"{200 * 2**20:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + bytes(1024)


CLAIMS: dict[str, tuple[bytes, list[str]]] = {
    "1 TB": (bytes(gnu_header(tarfile.REGTYPE, 2**40)), ["larger than 256 MiB", "damaged"]),
    "a name of 300 MB": (long_name(300 * 2**20), ["damaged"]),
    "a name of 1 TB": (long_name(2**40), ["damaged"]),
    "a name of 2 MB that is there": (long_name(2**21, b"x" * 2**21) + bytes(gnu_header(tarfile.REGTYPE, 0)), ["damaged"]),
    "20,000 names in a chain": (b"".join(long_name(100, b"x" * 100) for _ in range(20_000)), ["damaged"]),
    "a sparse file": (sparse(), ["a sparse file, which holds less than it claims"]),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_headers_that_claim_much_or_never_end_are_errors_behind_what_is_sound(tmp_path: Path, claim: str) -> None:
    header, errors = CLAIMS[claim]
    first = [("a.jpg", IMAGES[0].data)]
    path = tar(tmp_path / "x.tar", first)
    path.write_bytes(path.read_bytes()[: size_of(first)] + header)
    sound, *others = read_all(opened(path))
    assert (sound.data, sound.error) == (IMAGES[0].data, None)
    assert len(others) == len(errors)
    assert all(says in (image.error or "") for says, image in zip(errors, others, strict=True))
