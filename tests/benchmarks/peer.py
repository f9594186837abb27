"""Against what people would use instead, whole processes from outside, start included: Daft, a DataLoader, plain Ray Data.

python -m tests.benchmarks.peer [images] [rounds] [size]        8192, 3, tiny by default; the size is tiny or base

Daft is no requirement of this project: `pip install --no-deps --target DIR daft==0.7.26`, and DIR in PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pyarrow.dataset as ds

from tests.benchmarks.bench import interleave, report
from tests.benchmarks.corpora import photo_folder, random_checkpoint

OURS = "this project"


def commands(data: Path, model: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Each alternative's command line, given where its predictions go."""
    found: dict[str, Callable[[Path], list[str]]] = {
        "Daft": lambda out: ["tests.benchmarks.peer_daft", str(data), str(model), str(out)],
        "DataLoader": lambda out: ["tests.benchmarks.peer_dataloader", str(data), str(model), str(out)],
        "Ray Data as documented": lambda out: ["tests.benchmarks.peer_ray", str(data), str(model), str(out)],
        OURS: lambda out: ["jobs.imagenet", "--data", str(data), "--model", str(model), "--out", str(out)],
    }
    if importlib.util.find_spec("daft") is None:
        print("Daft is not installed and left out")
        del found["Daft"]
    return found


def main() -> None:
    given = dict(enumerate(sys.argv[1:]))
    images, rounds, size = int(given.get(0, 8192)), int(given.get(1, 3)), given.get(2, "tiny")
    runs = count()
    with tempfile.TemporaryDirectory() as scratch:
        data = photo_folder(Path(scratch) / "data", images)
        model = random_checkpoint(Path(scratch) / "model", size)

        def run(command: Callable[[Path], list[str]]) -> int:
            out = Path(scratch) / f"out-{next(runs)}"
            subprocess.run([sys.executable, "-m", *command(out)], check=True, capture_output=True)
            predictions = out / "predictions" if (out / "predictions").exists() else out
            rows = ds.dataset(predictions, format="parquet").count_rows()
            if rows != images:
                raise RuntimeError(f"{command(out)[0]}: {rows} rows of {images}")
            return rows

        alternatives: dict[str, Callable[[], int]] = {
            name: partial(run, command) for name, command in commands(data, model).items()
        }
        report(
            f"{images:,} photographs, whole processes, ViT of size '{size}'",
            interleave(alternatives, rounds),
            OURS,
            Path(f"out/benchmarks/peer-{size}-{images}.parquet"),
        )


if __name__ == "__main__":
    main()
