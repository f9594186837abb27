"""Against what people would use instead, whole processes from outside, start included: Daft, a DataLoader, plain Ray Data.

python -m tests.benchmarks.peer [images] [rounds] [layers]        8192, 3 and a tiny ViT by default; 12 layers are ViT-Base

Daft is no requirement of this project: `pip install --no-deps --target DIR daft==0.7.26`, and DIR in PYTHONPATH.
"""

import importlib.util
import subprocess
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import pyarrow.dataset as ds

from tests.benchmarks.bench import argument, imagenet, interleave, report
from tests.benchmarks.corpora import TINY, photo_folder, random_checkpoint

OURS = "this project"
PEERS = {"Daft": "daft", "DataLoader": "dataloader", "Ray Data as documented": "ray"}


def main() -> None:
    images, rounds, layers = argument(1, 8192), argument(2, 3), argument(3, 2)
    if importlib.util.find_spec("daft") is None:
        print(f"{PEERS.pop('Daft')} is not installed and left out")
    runs = count()
    with tempfile.TemporaryDirectory() as scratch:
        data = photo_folder(Path(scratch) / "data", images)
        model = random_checkpoint(Path(scratch) / "model", **(TINY if layers == 2 else {"num_hidden_layers": layers}))

        def run(peer: str) -> int:
            out = Path(scratch) / f"out-{next(runs)}"
            if peer:
                line = [sys.executable, "-m", "tests.benchmarks.peers", peer, str(data), str(model), str(out)]
                subprocess.run(line, check=True, capture_output=True)
            else:
                imagenet(data, model, out)
            rows: int = ds.dataset(out if peer else out / "predictions", format="parquet").count_rows()
            assert rows == images, f"{peer}: {rows} rows of {images}"
            return rows

        alternatives = {name: partial(run, peer) for name, peer in (PEERS | {OURS: ""}).items()}
        report(f"{images:,} photographs, whole processes, a ViT of {layers} layers", interleave(alternatives, rounds), OURS)


if __name__ == "__main__":
    main()
