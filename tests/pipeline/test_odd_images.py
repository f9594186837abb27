"""Odd but legal image files: each gives the pixels of transformers' processor within one level, or an error as Pillow does."""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from tests.photographs import encoded, photograph
from tests.pipeline.fuzz_corpus import exif
from tests.pipeline.test_decode import differences, verdict

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

PICTURE = photograph(1, 150, 100)
# fmt: off
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B")
KINDS = (
    "PNG", "TIFF", "WEBP", "GIF", "BMP", "DIB", "TGA", "PPM", "JPEG", "JPEG2000", "ICO", "ICNS", "SGI", "QOI", "AVIF", "PCX",
    "IM", "DDS", "MSP", "XBM", "BLP",
)
# fmt: on


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_with(*segments: bytes) -> bytes:
    data = encoded(PICTURE)
    return data[:2] + b"".join(segments) + data[2:]


def xmp(form: str, orientation: int) -> bytes:
    inside = f'tiff:Orientation="{orientation}"/>' if form == "=" else f"><tiff:Orientation>{orientation}</tiff:Orientation>"
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {inside}</x:xmpmeta>'.encode()


def png_with(name: str, text: str, orientation: int) -> bytes:
    info = PngInfo()
    info.add_itxt(name, text) if name.startswith("XML") else info.add_text(name, text)
    return encoded(PICTURE, "PNG", pnginfo=info)


def raw_profile(orientation: int) -> str:
    data = exif(orientation).tobytes()
    return f"\nexif\n{len(data):8}\n{data.hex()}\n"


def late_exif(orientation: int) -> bytes:
    """A PNG whose eXIf stands behind its pixels."""
    data, body = encoded(PICTURE, "PNG"), exif(orientation).tobytes()[6:]
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    return data[:-12] + chunk + data[-12:]


ADOBE_XMP = b"http://ns.adobe.com/xap/1.0/\0"
MUCH = [segment(0xFE, bytes(60_000))] * 3
ORIENTED: dict[str, Callable[[int], bytes]] = {
    "jpeg, exif": lambda n: encoded(PICTURE, exif=exif(n)),
    "jpeg, exif behind comments": lambda n: jpeg_with(*MUCH, segment(0xE1, exif(n).tobytes())),
    "jpeg, xmp attribute": lambda n: jpeg_with(segment(0xE1, ADOBE_XMP + xmp("=", n))),
    "jpeg, xmp element": lambda n: jpeg_with(segment(0xE1, ADOBE_XMP + xmp(">", n))),
    "jpeg, xmp behind comments": lambda n: jpeg_with(*MUCH, segment(0xE1, ADOBE_XMP + xmp("=", n))),
    "jpeg, exif 1 and xmp": lambda n: jpeg_with(segment(0xE1, exif(1).tobytes()), segment(0xE1, ADOBE_XMP + xmp("=", n))),
    "mpo": lambda n: encoded(PICTURE, "MPO", exif=exif(n), save_all=True, append_images=[PICTURE]),
    "png, exif": lambda n: encoded(PICTURE, "PNG", exif=exif(n)),
    "png, exif behind pixels": late_exif,
    "png, xmp": lambda n: png_with("XML:com.adobe.xmp", xmp("=", n).decode(), n),
    "png, raw profile": lambda n: png_with("Raw profile type exif", raw_profile(n), n),
    "webp, exif": lambda n: encoded(PICTURE, "WEBP", exif=exif(n)),
    "webp, xmp": lambda n: encoded(PICTURE, "WEBP", xmp=xmp("=", n)),
    "tiff": lambda n: encoded(PICTURE, "TIFF", exif=exif(n)),
    "avif": lambda n: encoded(PICTURE, "AVIF", exif=exif(n)),
    "jpeg2000, nothing": lambda n: encoded(PICTURE, "JPEG2000"),
}


def odd_files() -> Iterator[tuple[str, bytes]]:
    for kind in KINDS:
        for mode in MODES:
            with suppress(OSError, ValueError, KeyError, TypeError):  # what Pillow does not write, or not in this mode
                picture = PICTURE.resize((16, 16)) if kind == "ICO" else PICTURE
                yield f"{kind} {mode}", encoded(picture.convert(mode), kind)
    for subsampling in ("444", "422", "420", "440", "411", "Gray"):
        grey = subsampling == "Gray"
        whole = np.asarray(PICTURE.convert("L"))[..., None] if grey else np.asarray(PICTURE)
        for width in (150, 149, 33):
            pixels = np.ascontiguousarray(whole[:, :width])
            yield f"jpeg {subsampling} {width}", simplejpeg.encode_jpeg(pixels, 85, "GRAY" if grey else "RGB", subsampling)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    variants: dict[str, dict[str, Any]] = {
        "quality 1": {"quality": 1},
        "quality 100": {"quality": 100, "subsampling": 0},
        "optimised": {"optimize": True},
        "profile": {"icc_profile": srgb * 40},
        "comment": {"comment": b"x" * 60_000},
    }
    for name, options in variants.items():
        yield f"jpeg {name}", encoded(PICTURE, **options)
        yield f"jpeg {name}, grey", encoded(PICTURE.convert("L"), **options)
    cmyk = encoded(PICTURE.convert("CMYK"))
    adobe = cmyk.index(b"\xff\xee")
    yield "jpeg cmyk without Adobe's marker", cmyk[:adobe] + cmyk[adobe + 16 :]
    yield "jpeg cmyk called YCCK", cmyk[: adobe + 15] + b"\2" + cmyk[adobe + 16 :]
    for transform in range(3):
        yield f"jpeg, Adobe transform {transform}", jpeg_with(segment(0xEE, b"Adobe\0d" + bytes(4) + bytes([transform])))
    plain = encoded(PICTURE)
    frame = plain.index(b"\xff\xc0")
    yield "jpeg of 12 bits", plain[: frame + 4] + b"\x0c" + plain[frame + 5 :]
    yield "jpeg, extended", plain[:frame] + b"\xff\xc1" + plain[frame + 2 :]
    yield "jpeg, height to follow", plain[: frame + 5] + b"\0\0" + plain[frame + 7 :]
    yield "jpeg, two frames", plain[:frame] + plain[frame : frame + 19] + plain[frame:]
    yield "jpeg, fill bytes", plain[:2] + b"\xff\xff\xff" + plain[2:]
    yield "jpeg, bytes between segments", plain[:2] + bytes(3) + plain[2:]
    yield "jpeg without JFIF", plain[:2] + plain[20:]
    yield "jpeg without an end", plain[:-2]
    yield "jpeg, nine tenths", plain[: len(plain) * 9 // 10]
    for mode in ("RGB", "L", "CMYK", "I;16"):
        yield f"tiff {mode}, differences", encoded(PICTURE.convert(mode), "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
        yield f"tiff {mode}, big", encoded(PICTURE.convert(mode), "TIFF", big_tiff=True)
    still = encoded(PICTURE.quantize(16), "GIF")
    place = still.index(b",\0\0\0\0")
    for left in (7, 100):
        yield f"gif, frame at {left}", still[: place + 1] + struct.pack("<HH", left, 9) + still[place + 5 :]
    yield "gif, larger canvas", still[:6] + struct.pack("<HH", 200, 150) + still[10:]
    for tail in (b"\0", b"\xff\xd8", b"\xff\xd9" * 9, b"x" * 10_000):
        yield f"jpeg and {len(tail)} bytes {tail[:1].hex()}", encoded(PICTURE) + tail
        yield f"png and {len(tail)} bytes {tail[:1].hex()}", encoded(PICTURE, "PNG") + tail
    for size in ((1, 5000), (5000, 1), (1, 1), (2, 3), (17, 1), (8, 8)):
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            yield f"{kind} {size}", encoded(photograph(2, *size), kind)
    translucent = PICTURE.copy()
    translucent.putalpha(PICTURE.getchannel("R"))
    for kind in ("PNG", "GIF", "WEBP", "TIFF", "AVIF"):
        first = translucent if kind != "GIF" else PICTURE.quantize(16)
        yield f"{kind} animated", encoded(first, kind, save_all=True, append_images=[first.transpose(Image.Transpose.ROTATE_180)])
    for transparency in (0, 5, bytes(range(16))):
        yield f"palette, transparent {transparency!r}", encoded(PICTURE.quantize(16), "PNG", transparency=transparency)
    for bits in (1, 2, 4):
        yield f"png palette of {bits} bits", encoded(PICTURE.quantize(1 << bits), "PNG", bits=bits)
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg", "zstd", "lzma"):
        yield f"tiff {compression}", encoded(PICTURE, "TIFF", compression=compression)
    for name, make in ORIENTED.items():
        yield f"{name}, ignored", make(6)


FILES = dict(odd_files())


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_has_the_processors_pixels(name: str) -> None:
    assert_as_pillow(FILES[name])


@pytest.mark.parametrize("orientation", [1, 3, 6, 7, 9])
@pytest.mark.parametrize("form", ORIENTED)
def test_upright_is_as_pillow_turns_it(form: str, orientation: int) -> None:
    assert_as_pillow(ORIENTED[form](orientation), upright=True)


def assert_as_pillow(data: bytes, upright: bool = False) -> None:
    """Refused where Pillow does not open it, else the processor's pixels: within a level, bicubic within two."""
    reason, opens = verdict(data, upright)
    assert (reason is None) == opens
    for resample in (2, 3) if opens else ():
        assert differences(data, {"resample": resample}, upright).max() <= resample - 1
