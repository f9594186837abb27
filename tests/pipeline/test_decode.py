"""Decoding equals transformers' own processor on what it can open, and says in one line why it cannot open the rest."""

import io
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from transformers import ViTImageProcessorPil

from jobs.pipeline.decode import FORMATS, DecodeError, decode
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS
from tests.commands import run_code
from tests.photographs import encoded, photograph
from tests.pipeline.fuzz_corpus import KINDS, corpus, scan_bomb
from vit_actor.preprocess import Preprocess

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # of damage, from the reference

CONFIGS = {
    "bilinear-224": {},
    "bicubic-384": {"resample": 3, "size": 384},
    "oblong": {"size": {"height": 96, "width": 160}},
    "cropped": {"resample": 3, "size": 256, "do_center_crop": True, "crop_size": {"height": 223, "width": 224}},
    "shortest edge": {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
    "lanczos": {"resample": 1},
    "nearest": {"resample": 0},
}


def decoded(data: bytes | memoryview, config: dict | None = None, upright: bool = False) -> np.ndarray:
    preprocess = replace(Preprocess.from_config(config or {}), upright=upright)
    out = np.empty(preprocess.shape, np.uint8)
    decode(data, preprocess, out)
    return out


def differences(data: bytes, config: dict | None = None, upright: bool = False) -> np.ndarray:
    """From transformers' processor, of an image that is converted to RGB first unless the processor itself is told to."""
    image = Image.open(io.BytesIO(data))
    if upright:
        image = ImageOps.exif_transpose(image)
    if not (config or {}).get("do_convert_rgb"):
        image = image.convert("RGB")
    processor = ViTImageProcessorPil(**(config or {}), do_rescale=False, do_normalize=False)
    expected = processor(image)["pixel_values"][0].transpose(1, 2, 0)
    return np.abs(decoded(data, config, upright).astype(int) - expected)


def assert_equal_to_the_reference(data: bytes, config: dict | None = None) -> None:
    difference = differences(data, config)
    assert (difference <= 1).mean() >= 0.995
    assert difference.max() <= 2


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_filter_size_and_crop_equals_the_reference(config: dict, kind: str) -> None:
    assert_equal_to_the_reference(encoded(photograph(5), kind), config)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_on_white_equals_the_reference(kind: str) -> None:
    assert_equal_to_the_reference(KINDS[kind](photograph(6, 150, 100)), {"do_convert_rgb": True})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    mode=st.sampled_from(["RGB", "L"]),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    resample=st.sampled_from([2, 3]),
)
def test_jpegs_of_any_size_equal_the_reference(width: int, height: int, mode: str, subsampling: str, resample: int) -> None:
    image = photograph(7, width, height).convert(mode)
    assert_equal_to_the_reference(encoded(image, subsampling=subsampling), {"resample": resample})


def test_only_its_own_slice_of_a_chunk_is_written() -> None:
    preprocess = Preprocess.from_config({})
    chunk = np.full((3, *preprocess.shape), 7, np.uint8)
    decode(encoded(photograph(12)), preprocess, chunk[1])
    assert (chunk[[0, 2]] == 7).all()
    np.testing.assert_array_equal(chunk[1], decoded(encoded(photograph(12))))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_anywhere_is_an_error_and_never_a_grey_band(progressive: bool) -> None:
    data = encoded(photograph(15), progressive=progressive)
    for end in [*range(0, len(data), len(data) // 40), len(data) - 20]:
        with pytest.raises(DecodeError):
            decoded(data[:end])


MANY_PIXELS = "more than 178,956,970 pixels"
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty file"),
    "text": (b"not an image", "not an image in a format that Pillow knows"),
    "truncated-jpeg": (encoded(photograph(16))[:20_000], "image file is truncated"),
    "truncated-png": (encoded(photograph(16, 32, 32), "PNG")[:500], "[Tt]runcated"),
    "bomb": (encoded(Image.new("1", (13400, 13400)), "PNG"), MANY_PIXELS),
    "larger-bomb": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), MANY_PIXELS),
    "jpeg-bomb": (encoded(Image.new("L", (13400, 13400)), progressive=True), MANY_PIXELS),
    "scans": (scan_bomb(8000, 8000, 600), "600 scans of 8000 x 8000 pixels would take too long"),
    "eps": (encoded(photograph(16, 32, 32), "EPS"), "EPS is refused"),
    # Text that would be read by the character is bounded:
    "header": (b"P6\n" + b"# comment\n" * 4_000_000 + b"1 1 255\nabc", "header"),
    "plain": (b"P3\n1 1 255\n" + b"# comment\n" * 4_000_000 + b"1 2 3", "text"),
    "blank": (b"P2 " + b" " * 40_000_000, "text"),
}


@pytest.mark.parametrize(("data", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_image_says_why_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason) as failure:
        decoded(data)
    assert len(str(failure.value).splitlines()) == 1
    assert " at 0x" not in str(failure.value)


def verdict(data: bytes, upright: bool = False) -> tuple[str | None, bool]:
    """Why decode() refuses the data, None where it does not, and whether Pillow opens it."""
    reason, opens = None, False
    try:
        decoded(data, upright=upright)
    except DecodeError as failure:
        reason = str(failure)
    with suppress(Exception):  # what Pillow raises on damage is of every kind
        image = Image.open(io.BytesIO(data))
        opens = bool((ImageOps.exif_transpose(image) if upright else image).convert("RGB"))
    return reason, opens


@pytest.mark.parametrize(("count", "seed"), [(300, 1), pytest.param(3000, 2, marks=pytest.mark.slow)])
def test_the_verdict_on_odd_and_damaged_files_is_pillows(count: int, seed: int) -> None:
    """Every file decodes or raises DecodeError, as Pillow has it; the sound ones decode; pixels equal the reference's."""
    verdicts = {"sound": [0, 0], "damaged": [0, 0]}
    for name, data in corpus(count, seed):
        reason, opens = verdict(data)
        assert (reason is None) == opens, f"{name}: Pillow opens it: {opens}; decode: {reason}"
        if opens:
            assert differences(data).max() <= 2, name
        verdicts[name.split("/")[0]][opens] += 1
    assert verdicts["sound"][False] == 0
    assert min(verdicts["sound"][True], *verdicts["damaged"]) > count // 20  # or the corpus would prove little


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    magic=st.sampled_from(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x24\0\0\0WEBPVP8 ", b"II*\0"]
    ),
    rest=st.binary(max_size=300),
)
def test_arbitrary_bytes_decode_or_raise_decode_error(magic: bytes, rest: bytes) -> None:
    reason, opens = verdict(magic + rest)
    assert (reason is None) == opens


def measured_in_a_fresh_process(script: str, tmp_path: Path, **files: bytes) -> dict[str, int]:
    """Run `script`, which decodes `files` by name with `read` and notes measurements, and give the measurements."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    prelude = f"""
import json, os, pathlib, numpy, torch
from jobs.pipeline.decode import DecodeError, decode
from vit_actor.preprocess import Preprocess
preprocess = Preprocess.from_config({{}})
out = numpy.empty(preprocess.shape, numpy.uint8)
measured = {{}}
def read(*names):
    for name in names:
        try:
            decode((pathlib.Path({str(tmp_path)!r}) / name).read_bytes(), preprocess, out)
        except DecodeError:
            pass
def threads(moment):
    measured[moment] = len(os.listdir("/proc/self/task"))
def peak_megabytes(moment):
    measured[moment] = int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
"""
    whole = f"{prelude}\n{script}\nprint(json.dumps(measured))"
    run = run_code(whole).succeeded()
    return json.loads(run.stdout)


def test_decoding_stays_on_one_thread_and_bombs_cost_no_memory(tmp_path: Path) -> None:
    measured = measured_in_a_fresh_process(
        """
torch.set_num_threads(4)
threads("threads at first")
read("jpeg", "png", "large")
threads("threads after decoding")
peak_megabytes("before bombs")
read("jpeg_bomb", "png_bomb", "gif_bomb", "scan_bomb")
peak_megabytes("after bombs")
torch.ones(1 << 22).exp()
threads("threads after a parallel operation")
""",
        tmp_path,
        jpeg=encoded(photograph(17)),
        png=encoded(photograph(17), "PNG"),
        large=encoded(photograph(17, 2000, 1500)),
        jpeg_bomb=encoded(Image.new("L", (13400, 13400))),
        png_bomb=encoded(Image.new("1", (13400, 13400)), "PNG"),
        gif_bomb=encoded(Image.new("P", (13400, 13400)), "GIF"),
        scan_bomb=scan_bomb(8000, 8000, 600),
    )
    assert measured["threads after decoding"] == measured["threads at first"] < measured["threads after a parallel operation"]
    assert measured["after bombs"] - measured["before bombs"] < 64


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "JPEG2000"])
def test_memory_stays_below_24_bytes_a_pixel(kind: str, tmp_path: Path) -> None:
    options = {"progressive": True} if kind == "JPEG" else {"lossless": True, "method": 0} if kind == "WEBP" else {}
    measured = measured_in_a_fresh_process(
        'read("small"); peak_megabytes("before"); read("large"); peak_megabytes("after")',
        tmp_path,
        small=encoded(photograph(19)),
        large=encoded(photograph(19).resize((4000, 4000)), kind, **options),
    )
    assert 16 * 3 <= measured["after"] - measured["before"] <= 16 * 24


def test_every_format_of_pillows_is_read_or_refused_on_purpose() -> None:
    Image.init()
    decoders = {"EPS", "BUFR", "GRIB", "HDF5", "WMF", "MPEG", "PDF", "PALM"}  # another program's, or none
    refused = decoders | {"IPTC"}  # a wrapper around another image
    extensions = {extension for extension, kind in Image.registered_extensions().items() if kind not in refused}
    assert set(IMAGE_EXTENSIONS) == extensions
    without_name = {"IMT", "MCIDAS", "SPIDER", "XVTHUMB"}  # scientific or obsolete, and no file extension tells them
    assert set(FORMATS) == set(Image.OPEN) - refused - without_name


@pytest.mark.parametrize("harm", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*" + b"\xff" * 60])
def test_a_broken_exif_turns_nothing(harm: bytes) -> None:
    data = encoded(photograph(0))
    broken = data[:2] + b"\xff\xe1" + (len(harm) + 2).to_bytes(2, "big") + harm + data[2:]
    assert np.abs(decoded(broken, upright=True).astype(int) - decoded(data)).max() <= 1
