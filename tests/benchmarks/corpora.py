"""What the benchmarks classify and with what: photographs as JPEG files, and checkpoints with random weights."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from tests.photographs import encoded, photograph

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "patch_size": 32}


def photo_folder(folder: Path, images: int, distinct: int = 64) -> Path:
    """A flat folder of JPEGs of 500 x 375, about 78 KB each; files beyond the distinct ones are hard links."""
    folder.mkdir(parents=True)
    for i in range(min(images, distinct)):
        (folder / f"{i:06d}.jpeg").write_bytes(encoded(photograph(i)))
    for i in range(distinct, images):
        os.link(folder / f"{i % distinct:06d}.jpeg", folder / f"{i:06d}.jpeg")
    return folder


def random_checkpoint(folder: Path, **sizes: Any) -> Path:
    """A ViT of 1,000 classes with random weights, seeded: ViT-Base but for these sizes. Its speed is a trained one's."""
    torch.manual_seed(0)
    names = {i: str(i) for i in range(1000)}
    config = ViTConfig(id2label=names, label2id={name: i for i, name in names.items()}, **sizes)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return folder
