"""What resuming the last 1% of 100,000 images costs, beside the full run; tiny images, simulated device.

python -m tests.benchmarks.resume
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.corpora import random_checkpoint
from tests.faults.running import lose_chunks
from tests.pipeline.corpus import jpeg

IMAGES, CHUNK, LEFT = 100_000, 500, 2
"""LEFT: chunks of CHUNK images taken away before the resume: 1% of all."""


def write_data(folder: Path) -> Path:
    """200 Parquet files of 8x8 JPEGs, 500 of them different."""
    folder.mkdir()
    images = [jpeg(seed, 8, 8) for seed in range(CHUNK)]
    table = pa.table({"image": images, "label": [seed % 10 for seed in range(CHUNK)]})
    for shard in range(IMAGES // CHUNK):
        pq.write_table(table, folder / f"{shard:04d}.parquet")
    return folder


def timed(*command: object) -> float:
    """Seconds that a job takes from its start to its exit."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "jobs.imagenet", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        data, model, out = (
            write_data(Path(scratch) / "data"),
            random_checkpoint(Path(scratch) / "model", "tiny"),
            Path(scratch, "out"),
        )
        command = ["--data", data, "--model", model, "--out", out, "--device", "simulated"]
        seconds = {"full run": timed(*command)}
        lose_chunks(out, LEFT)
        manifest = json.loads((out / "manifest.json").read_text())
        manifest["attempts"][-1]["state"] = "stopped"
        (out / "manifest.json").write_text(json.dumps(manifest))
        seconds["resume of the last 1%"] = timed(*command, "--resume")
        rows = pq.read_table(out / "report" / "summary.parquet")["images"][0].as_py()
        assert rows == IMAGES, rows
        seconds["start-up alone (500 images)"] = timed(*command[:-3], Path(scratch, "one"), *command[-2:], f"--limit={CHUNK}")
    for name, each in seconds.items():
        print(f"{name:<28} {each:>7.1f} s   {each / seconds['full run']:.2f}x the full run", flush=True)


if __name__ == "__main__":
    main()
