"""Odd and damaged image files without end, all from one seed."""

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageCms

from tests.photographs import encoded, photograph

Random = np.random.Generator


def corpus(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` files as (name, bytes), the same for the same seed.

    A name says what the file is: `sound/...` opens in every reader of its format, `damaged/...` need not. Its extension is
    wrong now and then.
    """
    random = np.random.default_rng(seed)
    kinds, damages = list(KINDS), list(DAMAGES)
    for i in range(count):
        kind = kinds[i % len(kinds)]
        data = KINDS[kind](photograph(int(random.integers(1 << 30)), *_size(random)))
        extension = str(random.choice([kind.split("-")[0]] * 4 + ["JPEG", "png", "txt"]))
        if random.random() < 0.4:
            yield f"sound/{i:05d}-{kind}.{extension}", data
        else:
            damage = damages[i // len(kinds) % len(damages)]
            yield f"damaged/{i:05d}-{kind}-{damage}.{extension}", DAMAGES[damage](data, random)


def _size(random: Random) -> tuple[int, int]:
    shape = random.random()
    if shape < 0.1:
        return int(random.integers(1, 4)), int(random.integers(1, 4))
    if shape < 0.2:
        return int(random.integers(1000, 6000)), int(random.integers(1, 8))
    if shape < 0.25:
        return int(random.integers(1, 8)), int(random.integers(1000, 6000))
    return int(random.integers(8, 300)), int(random.integers(8, 300))


def _translucent(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(image.getchannel("G"))
    return image


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def _animation(image: Image.Image, kind: str) -> bytes:
    return encoded(image, kind, save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)], duration=40)


def png16(image: Image.Image) -> bytes:
    """A PNG with 16 bits in each of red, green and blue, which Pillow reads but does not write."""
    width, height = image.size
    levels = np.asarray(image).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in levels)

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg-420": encoded,
    "jpeg-444": lambda image: encoded(image, subsampling="4:4:4"),
    "jpeg-progressive": lambda image: encoded(image, progressive=True),
    "jpeg-restarts": lambda image: encoded(image, restart_marker_rows=1),
    "jpeg-grey": lambda image: encoded(image.convert("L")),
    "jpeg-grey-progressive": lambda image: encoded(image.convert("L"), progressive=True),
    "jpeg-rgb": lambda image: encoded(image, keep_rgb=True, subsampling="4:4:4"),
    "jpeg-cmyk": lambda image: encoded(image.convert("CMYK")),
    "jpeg-profile": lambda image: encoded(image, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    "jpeg-oriented": lambda image: encoded(image, exif=exif(6)),
    "jpeg-trailing": lambda image: encoded(image) + b"\0trailing\xff\xd8" * 9,
    "mpo": lambda image: encoded(image, "MPO", save_all=True, append_images=[image]),
    "png": lambda image: encoded(image, "PNG"),
    "png-alpha": lambda image: encoded(_translucent(image), "PNG"),
    "png-grey": lambda image: encoded(image.convert("L"), "PNG"),
    "png-grey-alpha": lambda image: encoded(_translucent(image).convert("LA"), "PNG"),
    "png-palette": lambda image: encoded(image.quantize(64), "PNG"),
    "png-palette-alpha": lambda image: encoded(image.quantize(64), "PNG", transparency=bytes(range(0, 256, 4))),
    "png-key-colour": lambda image: encoded(image, "PNG", transparency=image.getpixel((0, 0))),
    "png-bilevel": lambda image: encoded(image.convert("1"), "PNG"),
    "png-grey16": lambda image: encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 3), "PNG"),
    "png-rgb16": png16,
    "gif": lambda image: encoded(image.quantize(64), "GIF"),
    "gif-animated": lambda image: _animation(image.quantize(64), "GIF"),
    "webp": lambda image: encoded(image, "WEBP", method=0),
    "webp-alpha": lambda image: encoded(_translucent(image), "WEBP", method=0, lossless=True),
    "webp-animated": lambda image: _animation(image, "WEBP"),
    "png-animated": lambda image: _animation(image, "PNG"),
    "bmp": lambda image: encoded(image, "BMP"),
    "tiff": lambda image: encoded(image, "TIFF", compression="tiff_lzw"),
    "tiff-cmyk": lambda image: encoded(image.convert("CMYK"), "TIFF"),
    "tiff-float": lambda image: encoded(image.convert("F"), "TIFF"),
    "jp2": lambda image: encoded(image, "JPEG2000"),
    "ppm": lambda image: encoded(image, "PPM"),
    "tga": lambda image: encoded(image, "TGA"),
    "ico": lambda image: encoded(image.resize((16, 16)), "ICO"),
}
"""What a file is, from its picture."""


def _spliced(data: bytes, random: Random) -> bytes:
    cut, back = (int(position) for position in random.integers(0, len(data), 2))
    return data[:cut] + data[back:]


def _zeroed(data: bytes, random: Random) -> bytes:
    start, length = int(random.integers(len(data))), int(random.integers(1, 200))
    return data[:start] + bytes(min(length, len(data) - start)) + data[start + length :]


def _flipped(data: bytes, random: Random) -> bytes:
    damaged = bytearray(data)
    for position in random.integers(0, len(data), int(random.integers(1, 9))):
        damaged[position] ^= 1 << int(random.integers(8))
    return bytes(damaged)


def _huge(data: bytes, random: Random) -> bytes:
    """The same file with 0xDDDD wherever its header states a size, so far as the format is known here."""
    damaged = bytearray(data)
    sizes = {b"\x89PN": slice(18, 20), b"GIF": slice(6, 10), b"BM": slice(18, 20), b"RIF": slice(26, 30)}
    for magic, place in sizes.items():
        if data.startswith(magic):
            damaged[place] = b"\xdd" * (place.stop - place.start)
    for marker in (b"\xff\xc0\x00", b"\xff\xc2\x00"):
        if data.startswith(b"\xff\xd8") and (frame := data.find(marker)) > 0:
            damaged[frame + 5 : frame + 9] = b"\xdd" * 4
    return bytes(damaged)


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "truncated": lambda data, random: data[: int(len(data) * random.random())],
    "tail-missing": lambda data, random: data[: -int(random.integers(1, 12))],
    "flipped": _flipped,
    "header-flipped": lambda data, random: _flipped(data[:200], random) + data[200:],
    "zeroed": _zeroed,
    "spliced": _spliced,
    "huge": _huge,
    "empty": lambda data, random: b"",
    "blank": lambda data, random: bytes(len(data)),
    "noise": lambda data, random: data[:8] + random.bytes(len(data)),
}
"""What happens to a file's bytes."""


def scan_bomb(width: int, height: int, scans: int) -> bytes:
    """A valid progressive grey JPEG whose many scans say nothing, at about ten bytes per quarter-megapixel each."""
    blocks = -(-width // 8) * -(-height // 8)

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    def entropy_coded(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    one_code = bytes([1] + [0] * 15)  # Huffman table with the single code "0"
    end_of_band = entropy_coded(("0" + "1" * 14) * -(-blocks // 32767))  # runs of 2^14 + (2^14 - 1) empty blocks
    parts = [b"\xff\xd8", segment(0xDB, b"\0" + b"\1" * 64)]
    parts += [segment(0xC2, struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0))]
    parts += [segment(0xC4, b"\x00" + one_code + b"\x00"), segment(0xC4, b"\x10" + one_code + b"\xe0")]
    parts += [segment(0xDA, bytes([1, 1, 0, 0, 0, 0])), entropy_coded("0" * blocks)]
    for scan in range(scans - 1):
        band = 1 + scan % 63
        parts += [segment(0xDA, bytes([1, 1, 0, band, band, 0])), end_of_band]
    return b"".join(parts) + b"\xff\xd9"
