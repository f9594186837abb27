"""The job as a Daft user writes it: glob, download, decode, resize, a class UDF with the model, Parquet out."""

from __future__ import annotations

import os
import sys

import daft
import numpy as np
import torch
from daft import DataType, col
from daft.functions import decode_image, download, resize
from transformers import ViTForImageClassification


@daft.cls
class Classify:
    """Pixels uint8 224 x 224 x 3, normalised as the checkpoint's processor does, to the best class."""

    def __init__(self, model: str) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._model = ViTForImageClassification.from_pretrained(model).eval()

    @daft.method.batch(return_dtype=DataType.int64(), batch_size=64)
    def classify(self, images: daft.Series) -> list[int]:
        pixels = torch.from_numpy(np.stack(images.to_pylist())).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return self._model(pixel_values=pixels.float() / 127.5 - 1).logits.argmax(-1).tolist()


def main() -> None:
    data, model, out = sys.argv[1:]
    found = daft.from_glob_path(f"{data}/*.jpeg").select("path")
    pixels = resize(decode_image(download(col("path")), mode="RGB"), 224, 224)
    classify = Classify(model).classify
    found.with_column("pixels", pixels).select("path", classify(col("pixels")).alias("prediction")).write_parquet(out)


if __name__ == "__main__":
    main()
