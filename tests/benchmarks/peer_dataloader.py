"""The job as a PyTorch user writes it: a DataLoader with the Hugging Face processor, and the model, a worker a core."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import ViTForImageClassification, ViTImageProcessor


class Photographs(Dataset):
    """Paths to what the processor makes of them."""

    def __init__(self, data: str, model: str) -> None:
        self.paths = sorted(Path(data).iterdir())
        self._processor = ViTImageProcessor.from_pretrained(model)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.paths[index]).convert("RGB")
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0]


def main() -> None:
    data, model, out = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    photographs = Photographs(data, model)
    network = ViTForImageClassification.from_pretrained(model).eval()
    predictions: list[int] = []
    with torch.inference_mode():
        for pixels in DataLoader(photographs, batch_size=64, num_workers=len(os.sched_getaffinity(0))):
            predictions += network(pixel_values=pixels).logits.argmax(-1).tolist()
    table = pa.table({"path": [str(path) for path in photographs.paths], "prediction": predictions})
    Path(out).mkdir(parents=True)
    pq.write_table(table, Path(out) / "predictions.parquet")


if __name__ == "__main__":
    main()
