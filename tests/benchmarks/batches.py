"""How full the device's batches are for each layout of a data set: batches that ran, against those its images fit into.

python -m tests.benchmarks.batches
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.bench import imagenet, summary
from tests.benchmarks.corpora import TINY, random_checkpoint
from tests.photographs import encoded, photograph
from tests.pipeline.corpus import Picture, class_folders, plain_parquet, webdataset

BATCH = 64
JPEGS = [encoded(photograph(seed)) for seed in range(64)]


def images(count: int, classes: int = 1, damaged: int = 0) -> list[Picture]:
    """In turn of so many classes; every `damaged`-th is no image."""
    data = (b"damaged" if damaged and i % damaged == 0 else JPEGS[i % 64] for i in range(count))
    return [Picture(f"{i:05d}.jpg", i % classes, each) for i, each in enumerate(data)]


def parquet(folder: Path, files: int, rows: int, group: int) -> None:
    for file in range(files):
        plain_parquet(folder / f"{file}.parquet", images(rows), row_group_size=group)


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "Parquet, 2 files of 3,572 rows, row groups of 100": lambda folder: parquet(folder, 2, 3572, 100),
    "Parquet, 1 file of 700 rows, row groups of 1": lambda folder: parquet(folder, 1, 700, 1),
    "Parquet, 1 file of 4,000 rows, one row group": lambda folder: parquet(folder, 1, 4000, 4000),
    "tar, 40 shards of 50": lambda folder: webdataset(folder, images(2000), 40),
    "tar, 1 shard of 5,000": lambda folder: webdataset(folder, images(5000), 1),
    "1,000 class folders of 5": lambda folder: class_folders(folder, images(5000, 1000), str),
    "class folders, 8 x 500, every 100th image damaged": lambda folder: class_folders(folder, images(4000, 8, 100), str),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model = random_checkpoint(Path(scratch) / "model", **TINY)
        print(f"{'':52}{'batches':>10}{'full ones fit':>15}")
        for number, (layout, make) in enumerate(LAYOUTS.items()):
            data, out = Path(scratch) / f"data-{number}", Path(scratch) / f"out-{number}"
            make(data)
            imagenet(data, model, out, "--device=simulated", "--simulate=compute=10ms", "--labels=none", "--max-errors=5%")
            found = summary(out)
            print(f"{layout:52}{found['batches']:>10}{(found['images'] - found['errors']) / BATCH:>15.1f}", flush=True)


if __name__ == "__main__":
    main()
