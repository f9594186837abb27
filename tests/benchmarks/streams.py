"""What more streams give and cost: chunks a second and CPU time a chunk, with four simulated devices that answer at once.

python -m tests.benchmarks.streams [rounds]

A chunk is one image that no decoder takes, in a file of its own, so that it costs what listing, handing out, committing and
counting cost. The CPU time is the machine's, all processes together; of each figure, the start and the end are left out.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.bench import argument, imagenet, machine
from tests.benchmarks.running import INSTANT
from tests.conftest import RayCluster, ray_head

FEW, MANY = 200, 1200
"""Chunks of two runs, whose difference leaves out the start and the end."""
STREAMS = 1, 2, 4


def unreadable(folder: Path, chunks: int) -> Path:
    """So many Parquet files, each a chunk of one row that is no image."""
    folder.mkdir()
    for number in range(chunks):
        pq.write_table(pa.table({"image": [{"bytes": b"no image"}]}), folder / f"{number:05d}.parquet")
    return folder


def run(cluster: RayCluster, data: Path, out: Path, streams: int) -> tuple[float, float]:
    """(seconds, CPU seconds) of a whole job."""
    arguments = ["--address", cluster.address, "--overwrite", "--max-errors=100%", f"--streams={streams}"]
    arguments += ["--device=simulated", f"--simulate={INSTANT}"]
    before = psutil.cpu_times()
    seconds = imagenet(data, "jobs/sample/model", out, *arguments, environment=cluster.environment)
    after = psutil.cpu_times()
    return seconds, sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "nice", "system"))


def main() -> None:
    measured: dict[int, list[tuple[float, ...]]] = {streams: [] for streams in STREAMS}
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        few, many = unreadable(scratch / "few", FEW), unreadable(scratch / "many", MANY)
        with ray_head(scratch / "home", "--num-cpus=6", '--resources={"TTNPU": 16}') as cluster:
            run(cluster, few, scratch / "out", 1)  # starts what stays, and does not count
            for _ in range(argument(1, 3)):
                for streams in STREAMS:
                    base, whole = (run(cluster, data, scratch / "out", streams) for data in (few, many))
                    each = tuple((more - less) / (MANY - FEW) for less, more in zip(base, whole, strict=True))
                    measured[streams].append(each)
    print(f"Medians\n{machine()}\n{'streams':>7} {'chunks/s':>9} {'CPU ms a chunk':>15}")
    for streams, runs in measured.items():
        seconds, cpu = map(statistics.median, zip(*runs, strict=True))
        print(f"{streams:>7} {1 / seconds:>9.0f} {cpu * 1e3:>15.1f}")


if __name__ == "__main__":
    main()
