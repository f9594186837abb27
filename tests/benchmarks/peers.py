"""What people would use instead: `python -m tests.benchmarks.peers daft|dataloader|ray DATA MODEL OUT`."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import ViTForImageClassification, ViTImageProcessor

CORES = len(os.sched_getaffinity(0))


def daft(data: str, model: str, out: str) -> None:
    """As a Daft user writes it: glob, download, decode, resize, a class UDF with the model, Parquet out."""
    import daft
    from daft import DataType, col
    from daft.functions import decode_image, download, resize

    @daft.cls
    class Classify:
        """Pixels uint8 224 x 224 x 3, normalised as the checkpoint's processor does, to the best class."""

        def __init__(self, model: str) -> None:
            torch.set_num_threads(CORES)
            self._model = ViTForImageClassification.from_pretrained(model).eval()

        @daft.method.batch(return_dtype=DataType.int64(), batch_size=64)
        def classify(self, images: daft.Series) -> list[int]:
            pixels = torch.from_numpy(np.stack(images.to_pylist())).permute(0, 3, 1, 2)
            with torch.inference_mode():
                return self._model(pixel_values=pixels.float() / 127.5 - 1).logits.argmax(-1).tolist()

    found = daft.from_glob_path(f"{data}/*.jpeg").select("path")
    pixels = resize(decode_image(download(col("path")), mode="RGB"), 224, 224)
    classify = Classify(model).classify
    found.with_column("pixels", pixels).select("path", classify(col("pixels")).alias("prediction")).write_parquet(out)


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


def dataloader(data: str, model: str, out: str) -> None:
    """As a PyTorch user writes it: a DataLoader with the Hugging Face processor, and the model, a worker a core."""
    torch.set_num_threads(CORES)
    photographs = Photographs(data, model)
    vit = ViTForImageClassification.from_pretrained(model).eval()
    predictions: list[int] = []
    with torch.inference_mode():
        for pixels in DataLoader(photographs, batch_size=64, num_workers=CORES):
            predictions += vit(pixel_values=pixels).logits.argmax(-1).tolist()
    Path(out).mkdir()
    pq.write_table(pa.table({"path": [str(path) for path in photographs.paths], "prediction": predictions}), f"{out}/0.parquet")


class Classifier:
    """Processor and model as their documentation uses them."""

    def __init__(self, model: str) -> None:
        torch.set_num_threads(CORES)
        self._processor = ViTImageProcessor.from_pretrained(model)
        self._model = ViTForImageClassification.from_pretrained(model).eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        inputs = self._processor(images=list(batch["image"]), return_tensors="pt")
        with torch.inference_mode():
            return {"path": batch["path"], "prediction": self._model(**inputs).logits.argmax(-1).numpy()}


def ray(data: str, model: str, out: str) -> None:
    """As Ray Data's documentation has it. One actor reserves a core but computes on all, so that reading can run beside it."""
    import ray
    from ray.data import ActorPoolStrategy

    ray.init(address="local")  # else it may wait for a cluster of this machine that has ended and is still noted in /tmp/ray
    images = ray.data.read_images(data, mode="RGB", include_paths=True)
    pool: dict[str, Any] = {"compute": ActorPoolStrategy(size=1), "num_cpus": max(1, CORES - 1)}
    images.map_batches(Classifier, fn_constructor_args=(model,), batch_size=64, **pool).write_parquet(out)


if __name__ == "__main__":
    {"daft": daft, "dataloader": dataloader, "ray": ray}[sys.argv[1]](*sys.argv[2:])
