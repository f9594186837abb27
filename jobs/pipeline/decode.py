"""One encoded image to the uint8 pixels that its checkpoint's processor would resize it to.

The reference is transformers' ViTImageProcessorPil fed with `PIL.Image.open(...)`. Where the bare processor fails, because
the image is not RGB, the image is converted with `convert("RGB")` first, as transformers' pipelines do: greyscale spreads to
three channels, palettes are looked up, alpha is dropped (or laid on white where the checkpoint asks), CMYK becomes RGB
without its profile, 16-bit greyscale is clipped at 255, an animation gives its first frame. EXIF orientation and embedded
profiles are ignored, as the processor ignores them, unless images are to be upright.

JPEG in grey or colour takes the fast path: a full libjpeg-turbo decode, then PyTorch's antialiased resize of uint8
(resize.py). Both run on the calling thread alone, so a task needs one core and no setting. Everything else, and every JPEG
that libjpeg as much as warns about, takes Pillow's path, whose verdict on damage is final.
"""

import io
import re
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from jobs.pipeline.resize import KERNELS, resize
from vit_actor.preprocess import Preprocess

MAX_PIXELS = 178_956_970
"""Pixels an image may have: more, Pillow refuses as a decompression bomb; 512 MB of RGB. It warns from half of it on."""
MAX_SCANNED_PIXELS = 30_000_000_000
"""Pixels times scans a JPEG may have: about 3 s of empty scans, of which a few hundred kilobytes can hold thousands."""
MAX_TILES = 100_000  # Strips or tiles an image may have that Pillow handles one by one
MAX_PLAIN_BYTES = 8 * 2**20  # Of a PPM in text, which Pillow reads a few characters at a time

# fmt: off
FORMATS = (
    "JPEG", "PNG", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "JPEG2000", "PPM", "QOI", "PSD", "PCX", "DCX", "DDS",
    "ICO", "CUR", "ICNS", "SGI", "SUN", "IM", "MSP", "BLP", "FITS", "FLI", "FTEX", "GBR", "PCD", "PIXAR", "XBM", "XPM",
    "TGA",
)
# fmt: on
"""Formats that are tried, in this order: those of Pillow's that it can decode by itself. A TGA has no signature, so that it comes
last."""
_JPEG = b"\xff\xd8"
_ORIENTED = re.compile(rb"Exif\0\0|tiff:Orientation")
_ORIENTATION = 0x0112
_HEADER_BYTES = 64 * 2**10
_START_OF_SCAN = b"\xff\xda"

# Pillow warns about damage that it gets over, once per image: over millions of images that is no news.
warnings.filterwarnings("ignore", module=r"PIL\.")


type Decode = Callable[[bytes | memoryview, Preprocess, np.ndarray], None]  # As `decode`


class DecodeError(ValueError):
    """An image that cannot be opened; the message is the reason in one line."""


def decode(data: bytes | memoryview, preprocess: Preprocess, out: np.ndarray) -> None:
    """Decode, resize and write one image into `out`, uint8 (height, width, 3) as `preprocess.shape` says.

    Peak memory is bounded by MAX_PIXELS: 3 bytes a pixel for baseline JPEG, up to 12 for the other common formats, and
    below 24 for every one (JPEG 2000, lossless WebP).

    Raises DecodeError for data that is not an image, is damaged, or exceeds MAX_PIXELS or MAX_SCANNED_PIXELS; `out` is then
    undefined. Raises ValueError for an `out` of another shape or type.
    """
    data = memoryview(data).cast("B")  # Arrow's views are of signed bytes, which simplejpeg does not take
    if out.shape != preprocess.shape or out.dtype != np.uint8:
        raise ValueError(f"out must be uint8 {preprocess.shape}, not {out.dtype} {out.shape}")
    turned = preprocess.upright and _is_turned(data)
    pixels = _libjpeg(data) if preprocess.resample in KERNELS and not turned else None
    if pixels is not None:
        size = _resized(preprocess, *pixels.shape[:2])
        if size == out.shape[:2]:
            resize(pixels, preprocess.resample, out)
            return
        resized = np.empty((*size, 3), np.uint8)
        resize(pixels, preprocess.resample, resized)
    else:
        image = _pillow(data, preprocess.white_background, upright=preprocess.upright)
        size = _resized(preprocess, image.height, image.width)
        resized = np.asarray(image.resize(size[::-1], Image.Resampling(preprocess.resample)))
    top, left = (size[0] - preprocess.height) // 2, (size[1] - preprocess.width) // 2
    out[:] = resized[top : top + preprocess.height, left : left + preprocess.width]


def _resized(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    size = preprocess.resized(height, width)
    if size[0] * size[1] > MAX_PIXELS:
        raise DecodeError(f"resized to {size[1]} x {size[0]} it is more than {MAX_PIXELS:,} pixels")
    return size


def _libjpeg(data: memoryview) -> np.ndarray | None:
    """A sound grey or colour JPEG's pixels, uint8 (height, width, 3); None for anything else."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace not in ("YCbCr", "RGB", "Gray"):
            return None
        _check_cost(height, width, data)
        return simplejpeg.decode_jpeg(data, "RGB")
    except DecodeError:
        raise
    except ValueError:  # simplejpeg's for every libjpeg error and, being strict, warning
        return None


def _is_turned(data: memoryview) -> bool:
    """Whether a JPEG has an orientation, in its EXIF or XMP; of other formats nothing is known before they are decoded."""
    if data[:2] != _JPEG or not _ORIENTED.search(data):
        return False
    try:
        return Image.open(io.BytesIO(data), formats=("JPEG",)).getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # decoding reports what is wrong with it
        return False


def _pillow(data: memoryview, white_background: bool, *, upright: bool) -> Image.Image:
    """The image in mode RGB, as Pillow decodes it, turned as its EXIF orientation says if it is to be upright."""
    if not data:
        raise DecodeError("empty file")
    try:
        if data[:4] == b"%!PS":
            raise DecodeError("EPS is refused: it is a program, which Pillow would have Ghostscript run")
        _check_text(data)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_cost(image.height, image.width, data)
        if len(getattr(image, "tile", ())) > MAX_TILES:
            raise DecodeError(f"more than {MAX_TILES:,} strips or tiles")
        if upright:
            with suppress(SyntaxError, ValueError, TypeError, KeyError, struct.error):  # a broken EXIF turns nothing
                image = ImageOps.exif_transpose(image)
        if white_background and ("A" in image.getbands() or image.info.get("transparency") is not None):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except DecodeError:
        raise
    except Image.UnidentifiedImageError:
        raise DecodeError("not an image in a format that Pillow knows") from None
    except Image.DecompressionBombError:
        raise DecodeError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # its plugins raise every kind on damaged data: struct.error, KeyError, zlib.error, ...
        reason = " ".join(str(error).split())[:200]
        raise DecodeError(f"{type(error).__name__}: {reason}" if reason else type(error).__name__) from None


def _check_text(data: memoryview) -> None:
    """Bound what Pillow parses by the character: text of a PPM, in its header or as its pixels."""
    magic = bytes(data[:2])
    if magic in (b"P1", b"P2", b"P3") and len(data) > MAX_PLAIN_BYTES:
        raise DecodeError(f"a PPM in text of more than {MAX_PLAIN_BYTES >> 20} MiB")
    if magic in (b"P4", b"P5", b"P6") and data[2:3] in (b"#", *(bytes([c]) for c in b" \t\n\r")):
        header = re.sub(rb"#[^\n\r]*", b"", bytes(data[:_HEADER_BYTES]))
        if len(header.split(None, 3)) < 3 and len(data) > _HEADER_BYTES:
            raise DecodeError(f"a PPM whose header is longer than {_HEADER_BYTES >> 10} KiB")


def _check_cost(height: int, width: int, data: memoryview) -> None:
    pixels = height * width
    if pixels > MAX_PIXELS:
        raise DecodeError(f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
    # Counting takes longer than small images can afford, and a scan takes at least ten bytes: short files cannot exceed it.
    if data[:2] == _JPEG and pixels * len(data) // 10 > MAX_SCANNED_PIXELS:
        scans = bytes(data).count(_START_OF_SCAN)
        if pixels * scans > MAX_SCANNED_PIXELS:
            raise DecodeError(f"{scans} scans of {width} x {height} pixels would take too long")
