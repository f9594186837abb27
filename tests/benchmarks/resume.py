"""What resuming the last 1% of 100,000 images costs, beside the full run; tiny images, simulated device.

python -m tests.benchmarks.resume
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.benchmarks.bench import imagenet, summary
from tests.benchmarks.corpora import TINY, random_checkpoint
from tests.faults.running import lose_chunks, write_shards

IMAGES, SHARDS = 500, 200


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        data, out = write_shards(Path(scratch) / "data", SHARDS, IMAGES, size=8), Path(scratch, "out")
        model = random_checkpoint(Path(scratch) / "model", **TINY)
        seconds = {"full run": imagenet(data, model, out, "--device=simulated")}
        lose_chunks(out, 2)
        seconds["resume of the last 1%"] = imagenet(data, model, out, "--device=simulated", "--resume")
        assert summary(out)["images"] == SHARDS * IMAGES
        one = imagenet(data, model, Path(scratch, "one"), "--device=simulated", f"--limit={IMAGES}")
        seconds[f"start-up alone ({IMAGES} images)"] = one
    for name, each in seconds.items():
        print(f"{name:<28} {each:>7.1f} s   {each / seconds['full run']:.2f}x the full run", flush=True)


if __name__ == "__main__":
    main()
