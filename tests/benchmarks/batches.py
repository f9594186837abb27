"""How full the device's batches are for each layout of a data set: batches that ran, against those its images fit into.

python -m tests.benchmarks.batches [folder of a commit to compare with]
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.corpora import photo_folder, random_checkpoint

BATCH = 64


def parquet(folder: Path, jpegs: list[bytes], *, files: int, rows: int, group: int) -> None:
    """Files of so many rows, in row groups of `group`."""
    folder.mkdir()
    for file in range(files):
        table = pa.table({"image": [jpegs[i % len(jpegs)] for i in range(rows)]})
        pq.write_table(table, folder / f"{file}.parquet", row_group_size=group)


def tars(folder: Path, jpegs: list[bytes], *, files: int, samples: int) -> None:
    """WebDataset shards of so many samples."""
    folder.mkdir()
    for file in range(files):
        with tarfile.open(folder / f"{file:04d}.tar", "w") as tar:
            for i in range(samples):
                member = tarfile.TarInfo(f"{i:05d}.jpg")
                member.size = len(jpegs[i % len(jpegs)])
                tar.addfile(member, io.BytesIO(jpegs[i % len(jpegs)]))


def folders(folder: Path, jpegs: list[bytes], *, classes: int, images: int, damaged: int = 0) -> None:
    """Class folders of so many images each; every `damaged`-th is no image."""
    for label in range(classes):
        (folder / str(label)).mkdir(parents=True)
        for i in range(images):
            broken = damaged and (label * images + i) % damaged == 0
            (folder / str(label) / f"{i}.jpg").write_bytes(b"damaged" if broken else jpegs[i % len(jpegs)])


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model = random_checkpoint(Path(scratch) / "model", "tiny")
        photos = photo_folder(Path(scratch) / "photos", 64)
        jpegs = [file.read_bytes() for file in sorted(photos.iterdir())]
        layouts: dict[str, Callable[[Path], None]] = {
            "Parquet, 2 files of 3,572 rows, row groups of 100": lambda f: parquet(f, jpegs, files=2, rows=3572, group=100),
            "Parquet, 1 file of 700 rows, row groups of 1": lambda f: parquet(f, jpegs, files=1, rows=700, group=1),
            "Parquet, 1 file of 4,000 rows, one row group": lambda f: parquet(f, jpegs, files=1, rows=4000, group=4000),
            "tar, 40 shards of 50": lambda f: tars(f, jpegs, files=40, samples=50),
            "tar, 1 shard of 5,000": lambda f: tars(f, jpegs, files=1, samples=5000),
            "1,000 class folders of 5": lambda f: folders(f, jpegs, classes=1000, images=5),
            "class folders, 8 x 500, every 100th image damaged": lambda f: folders(f, jpegs, classes=8, images=500, damaged=100),
        }
        versions = dict(zip(("now", "before"), [Path.cwd(), *map(Path, sys.argv[1:2])], strict=False))
        print(f"{'':52}" + "".join(f"{name + ': batches':>18}{'full ones fit':>15}" for name in versions))
        for number, (layout, make) in enumerate(layouts.items()):
            data = Path(scratch) / f"data-{number}"
            make(data)
            line = f"{layout:52}"
            for name, project in versions.items():
                out = Path(scratch) / f"{name}-{number}"
                command = [sys.executable, "-m", "jobs.imagenet", "--data", str(data), "--model", str(model), "--out", str(out)]
                command += ["--device", "simulated", "--simulate", "compute=10ms", "--labels", "none", "--max-errors", "5%"]
                if layout.startswith(("1,000", "class")):
                    command = [part for part in command if part not in ("--labels", "none")]
                environment = {**os.environ, "PYTHONPATH": str(project)}
                subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)
                summary = pq.read_table(out / "report" / "summary.parquet").to_pylist()[0]
                line += f"{summary['batches']:>18}{(summary['images'] - summary['errors']) / BATCH:>15.1f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
