"""A preprocessor_config.json gives the pixel values that transformers gives with it, or one line why it cannot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor

from jobs.pipeline.decode import decode
from tests.photographs import encoded, photograph
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CONFIGS: dict[str, dict[str, Any]] = {
    "none": {},
    "feature-extractor-of-the-original-vit": {
        "do_normalize": True,
        "do_resize": True,
        "size": 224,
        "image_mean": [0.5, 0.5, 0.5],
    },
    "feature-extractor-by-name": {"feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 384, **IMAGENET},
    "image-processor": {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}, "resample": 3},
    "fast-image-processor-with-nulls": {
        **{"image_processor_type": "ViTImageProcessorFast", "size": {"height": 224, "width": 224}, "default_to_square": True},
        **dict.fromkeys(("crop_size", "device", "do_center_crop", "do_convert_rgb", "do_pad", "pad_size")),
    },
    "deit-feature-extractor": {
        **{"crop_size": 224, "do_center_crop": True, "feature_extractor_type": "DeiTFeatureExtractor"},
        **{"resample": 3, "size": 256, **IMAGENET},
    },
    "deit-defaults": {"image_processor_type": "DeiTImageProcessor"},
    "oblong-with-an-odd-crop": {"size": [97, 160], "do_center_crop": True, "crop_size": {"height": 90, "width": 131}},
    "one-number-for-all-channels": {"image_mean": 0.4, "image_std": 0.3},
    "no-normalising": {"do_normalize": False},
    "nulls-switch-off": {"do_rescale": None, "do_normalize": None},
    "no-rescaling": {"do_rescale": False, "image_mean": [127, 120, 110], "image_std": [60, 61, 62]},
    "symmetric-by-rescaling": {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
    "box-filter": {"resample": 4},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_resize_crop_scale_and_shift_give_the_processors_pixel_values(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 180, 3), np.uint8))
    expected = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(image)["pixel_values"][0].transpose(1, 2, 0)

    preprocess = Preprocess.from_config(config)
    pixels = np.empty(preprocess.shape, np.uint8)
    decode(encoded(image, "PNG"), preprocess, pixels)
    # Where the decoder resizes, it rounds now and then to the next level.
    levels = np.abs((pixels * np.array(preprocess.scale) + preprocess.shift - expected) / preprocess.scale)
    assert pixels.shape == expected.shape
    assert levels.max() < 1.01
    assert (levels < 0.01).mean() > 0.98


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (640, 428), (224, 224), (300, 250)], ids=str)
def test_timms_bicubic_resize_and_crop_of_nine_tenths_are_what_pillow_makes(size: tuple[int, int]) -> None:
    image = photograph(0).resize(size)
    width, height = (int(248 * side / min(size)) for side in size)  # 248 is 224 / 0.9
    left, top = (width - 224) // 2, (height - 224) // 2
    expected = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    config = {"size": {"shortest_edge": 248}, "resample": 3, "do_center_crop": True, "crop_size": 224}
    preprocess = Preprocess.from_config(config)
    pixels = np.empty(preprocess.shape, np.uint8)
    decode(encoded(image, "PNG"), preprocess, pixels)
    difference = np.abs(pixels.astype(int) - np.asarray(expected))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


def test_do_convert_rgb_asks_for_a_white_background() -> None:
    assert not Preprocess.from_config({"do_convert_rgb": None}).white_background
    assert Preprocess.from_config({"do_convert_rgb": True}).white_background


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor is not supported"),
        ({"feature_extractor_type": "BeitFeatureExtractor"}, "BeitFeatureExtractor is not supported"),
        ({"do_resize": False}, "images would differ in size"),
        ({"do_pad": True, "pad_size": 256}, "images would differ in size"),
        ({"size": {"shortest_edge": 224}}, "size .*shortest_edge"),
        ({"size": 224, "default_to_square": False}, "size 224"),
        ({"size": {"height": 0, "width": 224}}, "size .* is not supported; give height and width"),
        ({"size": {"height": 224.5, "width": 224}}, "size .* is not supported; give height and width"),
        ({"size": "224"}, "size '224'"),
        ({"do_center_crop": True}, "crop_size None"),
        ({"do_center_crop": True, "crop_size": 256}, "crop_size 256x256 exceeds size 224x224"),
        ({"resample": 6}, "resample 6"),
        ({"resample": "bicubic"}, "resample 'bicubic'"),
        ({"rescale_factor": "1/255"}, "rescale_factor '1/255'"),
        ({"image_mean": None}, "image_mean None"),
        ({"size": None}, "size None"),
        ({"image_mean": [0.5]}, r"image_mean \[0.5\]"),
        ({"image_std": ["a", "b", "c"]}, "image_std"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std holds a zero"),
        ([], "it is not a JSON object"),
    ],
    ids=str,
)
def test_what_would_not_be_reproduced_is_refused_in_one_line(config: Any, named: str) -> None:
    with pytest.raises(UserError, match=f"^preprocessor_config.json: {named}") as refusal:
        Preprocess.from_config(config)
    assert len(str(refusal.value).splitlines()) == 1
