"""Train the sample's ViT on the digits that are not held out: seeded, a few minutes on two cores."""

from __future__ import annotations

import argparse
import io
import math

import torch
from PIL import Image
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from jobs.sample.make_sample import HELD_OUT, SAMPLE, digits, render

SEED = 20
THREADS = 2  # The number of threads decides the order of sums, so it is part of the seed

EPOCHS = 100
BATCH = 64
PEAK_LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1

PROCESSOR = ViTImageProcessor(size={"height": 64, "width": 64})

CONFIG = ViTConfig(
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=256,
    image_size=64,
    patch_size=8,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    id2label={i: str(i) for i in range(10)},
    label2id={str(i): i for i in range(10)},
)
"""ViT-Base's proportions in small: head size 32, one tile of the accelerator; 65 tokens, so there is padding to mask."""


def augment(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Each image (n, 3, h, w) turned up to 15 degrees, sheared, scaled by up to 15% and shifted by up to 12%, edges repeated."""

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(len(images), generator=random) * 2 - 1) * limit

    angle, shear, width, height = uniform(math.pi / 12), uniform(0.2), 1 + uniform(0.15), 1 + uniform(0.15)
    across = torch.stack([angle.cos() * width, shear - angle.sin(), uniform(0.12)], dim=1)
    down = torch.stack([angle.sin(), angle.cos() * height, uniform(0.12)], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def train(images: torch.Tensor, labels: torch.Tensor) -> ViTForImageClassification:
    """A model trained on images (n, 3, 64, 64) and labels (n,); the same on every run on one kind of CPU."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    random = torch.Generator().manual_seed(SEED)
    model = ViTForImageClassification(CONFIG).train()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=random)
        for start in range(0, len(images) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            logits = model(pixel_values=augment(images[batch], random)).logits
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}: loss of its last batch {loss.item():.3f}", flush=True)
    return model.eval()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # knows --help alone
    ink, targets = digits()
    images = [Image.open(io.BytesIO(render(digit))) for digit in ink[:-HELD_OUT]]
    pixels = torch.cat([PROCESSOR(image, return_tensors="pt")["pixel_values"] for image in images])
    model = train(pixels, torch.from_numpy(targets[:-HELD_OUT]))
    model.save_pretrained(SAMPLE / "model")
    PROCESSOR.save_pretrained(SAMPLE / "model")
    print(f"saved in {SAMPLE / 'model'}")


if __name__ == "__main__":
    main()
