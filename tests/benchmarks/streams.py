"""What more streams give and cost: chunks a second and CPU time a chunk, with four simulated devices that answer at once.

python -m tests.benchmarks.streams [rounds]

A chunk is one image that no decoder takes, in a file of its own, so that it costs what listing, handing out, committing and
counting cost. The CPU time is the machine's, all processes together; of each figure, the start and the end are left out.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.bench import machine
from tests.commands import ROOT
from tests.conftest import RayCluster, ray_head

FEW, MANY = 200, 1200
"""Chunks of two runs, whose difference leaves out the start and the end."""

STREAMS = 1, 2, 4


def unreadable(folder: Path, chunks: int) -> Path:
    """So many Parquet files, each a chunk of one row that is no image."""
    folder.mkdir()
    row = pa.table({"image": [{"bytes": b"no image"}]})
    for number in range(chunks):
        pq.write_table(row, folder / f"{number:05d}.parquet")
    return folder


def busy_seconds() -> float:
    """CPU seconds that this machine's processes have used since it started."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def run(cluster: RayCluster, data: Path, out: Path, streams: int) -> tuple[float, float]:
    """(seconds, CPU seconds) of a whole job."""
    command = ["jobs.imagenet", "--address", cluster.address, "--data", str(data), "--out", str(out), "--overwrite"]
    command += ["--model", "jobs/sample/model", "--device", "simulated", "--max-errors", "100%", "--streams", str(streams)]
    command += ["--simulate", "compute=1us,upload=0us,readback=0us,compile=0s"]
    began, before = time.monotonic(), busy_seconds()
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=cluster.environment, check=True, capture_output=True)
    return time.monotonic() - began, busy_seconds() - before


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        few, many = unreadable(scratch / "few", FEW), unreadable(scratch / "many", MANY)
        with ray_head(scratch / "home", "--num-cpus=6", '--resources={"TTNPU": 16}') as cluster:
            run(cluster, few, scratch / "out", 1)  # starts what stays, and does not count
            for current in range(rounds):
                for streams in STREAMS:
                    base, whole = (run(cluster, data, scratch / "out", streams) for data in (few, many))
                    seconds, cpu = ((more - less) / (MANY - FEW) for less, more in zip(base, whole, strict=True))
                    rows.append({"streams": streams, "round": current, "chunks_per_second": 1 / seconds, "cpu_seconds": cpu})
                    print(f"{streams} streams: {1 / seconds:.0f} chunks/s, {cpu * 1e3:.1f} ms of CPU a chunk", file=sys.stderr)
    print(f"Medians of {rounds} rounds\n{machine()}\n{'streams':>7} {'chunks/s':>9} {'CPU ms a chunk':>15}")
    for streams in STREAMS:
        own = [row for row in rows if row["streams"] == streams]
        rate, cpu = (statistics.median(row[name] for row in own) for name in ("chunks_per_second", "cpu_seconds"))
        print(f"{streams:>7} {rate:>9.0f} {cpu * 1e3:>15.1f}")
    path = Path("out/benchmarks/streams.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    main()
