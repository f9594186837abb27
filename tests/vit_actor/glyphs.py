"""A model with many close calls: 116 characters of eight fonts, distorted and noisy, told apart by twelve layers.

Ten digits at 97% say little about precision, because few answers are close. This model confuses O with 0 and l with I,
so a small error changes some of its answers.

Train it again (half an hour on one core): python -m tests.vit_actor.glyphs
"""

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

MODEL = Path(__file__).parent / "glyphs_model"
SIDE = 32
CHARACTERS = (
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyzαβγδεζηθικλμνξπρστυφχψωςΓΔΘΛΞΠΣΦΨΩ!#$%&()*+/<=>?@[]{}~"  # noqa: RUF001 - the likeness is the point
)
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralItalic"),
)
"""As matplotlib ships them."""

CONFIG = ViTConfig(
    hidden_size=128,
    num_hidden_layers=12,
    num_attention_heads=2,
    intermediate_size=256,
    image_size=SIDE,
    patch_size=8,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    id2label=dict(enumerate(CHARACTERS)),
)
"""Heads of 64 on 2 columns of cores, features on 4: as in ViT-Base, whose heads lie on other columns than its features."""

STEPS, BATCH, PEAK_LEARNING_RATE, WEIGHT_DECAY = 9000, 64, 1e-3, 0.05


def drawn() -> torch.Tensor:
    """Every character in every font: ink float32 0 to 1 (characters, fonts, 64, 64), centred."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    ink = np.zeros((len(CHARACTERS), len(FONTS), 64, 64), np.float32)
    for column, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 40)
        for row, character in enumerate(CHARACTERS):
            image = Image.new("L", (64, 64))
            ImageDraw.Draw(image).text((32, 32), character, fill=255, font=font, anchor="mm")
            ink[row, column] = np.asarray(image) / 255
    return torch.from_numpy(ink)


def batches(size: int, seed: int, easy: int = 0) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Images uint8 (size, 32, 32, 3) and labels (size,), without end: each turned, sheared, scaled, shifted, coloured, noisy.

    easy: over so many batches the distortions grow from none to all; a deep model learns nothing from hard images at first.
    """
    random, ink = torch.Generator().manual_seed(seed), drawn()

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(size, *shape, generator=random)

    for batch in count():
        strength = min(1.0, batch / easy) if easy else 1.0
        labels = torch.randint(len(CHARACTERS), (size,), generator=random)
        masks = ink[labels, torch.randint(len(FONTS), (size,), generator=random)][:, None]
        angle, shear, right, low = (strength * uniform(-limit, limit) for limit in (0.35, 0.25, 0.15, 0.15))
        width, height = (0.75 + strength * uniform(-0.2, 0.2) for _ in range(2))
        across = torch.stack([angle.cos() * width, shear - angle.sin(), right], dim=1)
        down = torch.stack([angle.sin(), angle.cos() * height, low], dim=1)
        grid = F.affine_grid(torch.stack([across, down], dim=1), [size, 1, SIDE, SIDE], align_corners=False)
        glyphs = F.grid_sample(masks, grid, align_corners=False)
        paper, colour = strength * uniform(0, 1, 3, 1, 1), 1 - strength * uniform(0, 1, 3, 1, 1)
        apart = (colour - paper).abs().mean(1, keepdim=True) < 0.35
        colour = torch.where(apart, (paper + 0.5) % 1, colour)
        noise = strength * uniform(0.02, 0.22, 1, 1, 1) * torch.randn(size, 3, SIDE, SIDE, generator=random)
        pixels = paper + (colour - paper) * glyphs + noise
        yield (255 * pixels).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy(), labels


def normalised(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, 32, 32, 3) -> float32 (n, 3, 32, 32) in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train() -> ViTForImageClassification:
    """Seeded; prints the loss and the accuracy on fresh images now and then."""
    torch.manual_seed(0)
    model = ViTForImageClassification(CONFIG).train()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}], lr=PEAK_LEARNING_RATE
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 300) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
    )
    for step, (images, labels) in zip(range(STEPS), batches(BATCH, 1, easy=STEPS // 3), strict=False):
        logits = model(pixel_values=normalised(images)).logits
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 199:
            hit = (logits.argmax(1) == labels).float().mean().item()
            print(f"step {step + 1}: loss {loss.item():.3f}, top-1 of the batch {hit:.3f}", flush=True)
    return model.eval()


def main() -> None:
    """Train and save."""
    model = train().bfloat16()
    model.save_pretrained(MODEL)
    (MODEL / "preprocessor_config.json").write_text(f'{{"size": {{"height": {SIDE}, "width": {SIDE}}}}}\n')


if __name__ == "__main__":
    main()
