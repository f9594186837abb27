"""What grows with the number of images: rate, the driver's peak memory and the object store's; the last row's device is slow.

python -m tests.benchmarks.growth
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.corpora import photo_folder, random_checkpoint


def peak_memory(pid: int) -> int:
    """High-water mark of a process's resident memory, in bytes; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def shared_memory() -> int:
    """Bytes of shared memory that this machine uses: what an object store has touched stays there until Ray ends."""
    mounted = os.statvfs("/dev/shm")
    return (mounted.f_blocks - mounted.f_bfree) * mounted.f_frsize


def main() -> None:
    rows: list[dict[str, object]] = []
    print(f"{'images':>7} {'device':>22} {'images/s':>9} {'seconds':>8} {'driver MB':>10} {'object store MB':>16}")
    with tempfile.TemporaryDirectory() as scratch:
        model = random_checkpoint(Path(scratch) / "model", "tiny")
        for images, compute in ((1_000, "5.84ms"), (4_000, "5.84ms"), (16_000, "5.84ms"), (16_000, "100ms")):
            data = photo_folder(Path(scratch) / f"data-{len(rows)}", images)
            out = Path(scratch) / f"out-{len(rows)}"
            command = ["-m", "jobs.imagenet", "--data", data, "--model", model, "--out", out]
            command += ["--device", "simulated", "--simulate", f"compute={compute}"]
            began, before = time.monotonic(), shared_memory()
            driver = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL)
            peak = store = 0
            while driver.poll() is None:
                peak, store = max(peak, peak_memory(driver.pid)), max(store, shared_memory() - before)
                time.sleep(0.05)
            if driver.returncode:
                sys.exit(f"the job of {images} images ended with {driver.returncode}")
            fps = pq.read_table(out / "report" / "summary.parquet")["system_fps"][0].as_py()
            seconds = time.monotonic() - began
            rows.append({"images": images, "compute": compute, "fps": fps, "seconds": seconds, "driver": peak, "store": store})
            device = f"simulated, {compute}"
            print(
                f"{images:>7,} {device:>22} {fps:>9,.1f} {seconds:>8.1f} {peak / 1e6:>10,.0f} {store / 1e6:>16,.0f}", flush=True
            )
    path = Path("out/benchmarks/growth.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    main()
