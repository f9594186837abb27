"""What a checkpoint's image processor does, read from its preprocessor_config.json.

Resizing happens where images are decoded; rescaling and normalising, affine per channel, happen on the device.
"""

from dataclasses import dataclass
from typing import Any, Self

from vit_actor.errors import UserError

_VIT = {
    "do_resize": True,
    "size": 224,
    "resample": 2,
    "do_center_crop": False,
    "do_pad": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": 0.5,
    "image_std": 0.5,
    "do_convert_rgb": False,
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": _VIT,
    "DeiTImageProcessor": _VIT | {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
}
"""Defaults of the processors that ViT checkpoints name: the class attributes in transformers 5.23."""
RESAMPLING = range(6)  # Pillow's filter numbers: nearest, Lanczos, bilinear, bicubic, box, Hamming


@dataclass(frozen=True)
class Preprocess:
    """Resize to (height, width) with a Pillow resampling filter number, then pixel * scale + shift per channel.

    crop_from: resize to this (height, width) instead and cut the given one out of its centre; None where nothing is cut.
    shortest_edge: resize so that the shorter side is this long instead, keeping the proportions, and cut; None for other ways.
    upright: turn images as their EXIF orientation says, which the checkpoint's processor does not.
    white_background: lay transparent pixels on white, as `do_convert_rgb` asks; without it transparency is dropped.
    """

    height: int
    width: int
    resample: int
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    crop_from: tuple[int, int] | None = None
    white_background: bool = False
    shortest_edge: int | None = None
    upright: bool = False

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size is resized to, before anything is cut off."""
        if self.shortest_edge is None:
            return self.crop_from or (self.height, self.width)
        shorter, longer = sorted((height, width))
        other = int(self.shortest_edge * longer / shorter)
        return (self.shortest_edge, other) if height <= width else (other, self.shortest_edge)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """From the parsed preprocessor_config.json of a ViT checkpoint, with the reference processor's defaults.

        A null switches off, as it does there: only an absent key takes its default. Raises UserError for a processor that
        this pipeline would not reproduce.
        """
        if not isinstance(config, dict):  # an entry of processor_config.json may be anything
            raise _refuse("it is not a JSON object", "restore the checkpoint's own file")
        kind = config.get("image_processor_type") or config.get("feature_extractor_type") or "ViTImageProcessor"
        name = str(kind).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
        if name not in PROCESSORS:
            raise _refuse(f"{kind} is not supported", f"use a checkpoint with a {' or '.join(PROCESSORS)}")
        given = PROCESSORS[name] | config
        if not given["do_resize"] or given["do_pad"]:
            raise _refuse("images would differ in size", "only do_resize true and do_pad false are supported")
        edge = given["size"].get("shortest_edge") if isinstance(given["size"], dict) and given["do_center_crop"] else None
        if edge is not None and (set(given["size"]) != {"shortest_edge"} or not isinstance(edge, int) or edge < 1):
            raise _refuse(f"size {given['size']!r} is not supported", "shortest_edge must be alone and a positive whole number")
        resized = (edge, edge) if edge else _size("size", given["size"], given.get("default_to_square", True))
        height, width = _size("crop_size", given.get("crop_size")) if given["do_center_crop"] else resized
        if height > resized[0] or width > resized[1]:
            raise _refuse(f"crop_size {height}x{width} exceeds size {resized[0]}x{resized[1]}", "a crop must fit")
        if given["resample"] not in RESAMPLING:
            raise _refuse(f"resample {given['resample']!r} is not supported", "it must be a Pillow filter number, 0 to 5")
        factor = given["rescale_factor"] if given["do_rescale"] else 1.0
        if not isinstance(factor, (int, float)):
            raise _refuse(f"rescale_factor {factor!r} is not supported", "it must be one number")
        normal = given if given["do_normalize"] else {"image_mean": 0.0, "image_std": 1.0}
        mean, std = (_channels(key, normal[key]) for key in ("image_mean", "image_std"))
        if 0 in std:
            raise _refuse("image_std holds a zero", "pixels are divided by it")
        return cls(
            height=height,
            width=width,
            resample=int(given["resample"]),
            scale=tuple(factor / each for each in std),
            shift=tuple(-less / each for less, each in zip(mean, std, strict=True)),
            crop_from=resized if (height, width) != resized and not edge else None,
            shortest_edge=edge,
            white_background=bool(given["do_convert_rgb"]),
        )


def _refuse(what: str, fix: str) -> UserError:
    return UserError(f"preprocessor_config.json: {what}; {fix}")


def _size(key: str, value: Any, square: bool = True) -> tuple[int, int]:
    """(height, width) from the forms a size takes: 224, [224, 224] or {"height": 224, "width": 224}."""
    sides = value
    if isinstance(value, int) and square:
        sides = [value, value]
    elif isinstance(value, dict) and set(value) == {"height", "width"}:
        sides = [value["height"], value["width"]]
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise _refuse(
            f"{key} {value!r} is not supported", "give height and width, positive whole numbers: images must end up alike"
        )
    return sides[0], sides[1]


def _channels(key: str, value: Any) -> tuple[float, ...]:
    """Three numbers from three or from one that serves every channel."""
    numbers = value if isinstance(value, (list, tuple)) else [value] * 3
    if len(numbers) != 3 or not all(isinstance(number, (int, float)) for number in numbers):
        raise _refuse(f"{key} {value!r} is not supported", "it must be one number, or three for red, green and blue")
    return tuple(map(float, numbers))
