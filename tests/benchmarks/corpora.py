"""What the benchmarks classify and with what: photographs as JPEG files, and checkpoints with random weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification

from tests.photographs import encoded, photograph

SIZES = {
    "base": {},  # ViTConfig's own defaults are ViT-Base/16 at 224
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "patch_size": 32},
}


def photo_folder(folder: Path, images: int, distinct: int = 64) -> Path:
    """A flat folder of JPEGs of 500 x 375, about 78 KB each; files beyond the distinct ones are hard links."""
    folder.mkdir(parents=True)
    for i in range(min(images, distinct)):
        (folder / f"{i:06d}.jpeg").write_bytes(encoded(photograph(i)))
    for i in range(distinct, images):
        os.link(folder / f"{i % distinct:06d}.jpeg", folder / f"{i:06d}.jpeg")
    return folder


def random_checkpoint(folder: Path, size: str) -> Path:
    """A ViT of 1,000 classes with random weights, seeded. Its answers mean nothing; its speed is a trained one's."""
    torch.manual_seed(0)
    config = ViTConfig(**SIZES[size], id2label={i: str(i) for i in range(1000)}, label2id={str(i): i for i in range(1000)})
    ViTForImageClassification(config).save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
