"""What a checkpoint's image processor does, read from its preprocessor_config.json.

Resizing happens where images are decoded; rescaling and normalising, affine per channel, happen on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vit_actor.errors import UserError

SUPPORTED_TYPES = ("ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil", "ViTFeatureExtractor")


@dataclass(frozen=True)
class Preprocess:
    """Resize to (height, width) with a Pillow resampling filter number, then pixel * scale + shift per channel."""

    height: int
    width: int
    resample: int
    scale: tuple[float, float, float]
    shift: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Preprocess:
        """From the parsed preprocessor_config.json of a ViT checkpoint, with the reference processor's defaults.

        Raises UserError for a processor that does something this pipeline would not reproduce.
        """
        kind = config.get("image_processor_type") or config.get("feature_extractor_type") or SUPPORTED_TYPES[0]
        if kind not in SUPPORTED_TYPES:
            raise UserError(f"preprocessor_config.json: {kind} is not supported; use a checkpoint with a ViTImageProcessor")
        if not config.get("do_resize", True) or config.get("do_center_crop", False) or config.get("do_pad", False):
            raise UserError("preprocessor_config.json: only do_resize without cropping or padding is supported")
        size = config.get("size", {"height": 224, "width": 224})
        if isinstance(size, int):
            size = {"height": size, "width": size}
        if set(size) != {"height", "width"}:
            raise UserError(f"preprocessor_config.json: size {size} is not supported; it must give height and width")
        rescale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if config.get("do_normalize", True):
            mean = tuple(config.get("image_mean", (0.5, 0.5, 0.5)))
            std = tuple(config.get("image_std", (0.5, 0.5, 0.5)))
        if len(mean) != 3 or len(std) != 3:
            raise UserError("preprocessor_config.json: image_mean and image_std must have three channels")
        return cls(
            height=int(size["height"]),
            width=int(size["width"]),
            resample=int(config.get("resample", 2)),
            scale=(rescale / std[0], rescale / std[1], rescale / std[2]),
            shift=(-mean[0] / std[0], -mean[1] / std[1], -mean[2] / std[2]),
        )
