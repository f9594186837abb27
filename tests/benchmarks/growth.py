"""What grows with the number of images: rate, the driver's peak memory, and the object store, at 1k, 4k and 16k images.

python -m tests.benchmarks.growth
"""

from __future__ import annotations

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


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        model = random_checkpoint(Path(scratch) / "model", "tiny")
        for images in (1_000, 2_000, 4_000, 16_000, 20_000):
            data = photo_folder(Path(scratch) / f"data-{images}", images)
            out = Path(scratch) / f"out-{images}"
            command = ["-m", "jobs.imagenet", "--data", data, "--model", model, "--out", out, "--device", "simulated"]
            began = time.monotonic()
            driver = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL)
            peak = 0
            while driver.poll() is None:
                peak = max(peak, peak_memory(driver.pid))
                time.sleep(0.05)
            if driver.returncode:
                sys.exit(f"the job of {images} images ended with {driver.returncode}")
            fps = pq.read_table(out / "report" / "summary.parquet")["system_fps"][0].as_py()
            rows.append({"images": images, "fps": fps, "seconds": time.monotonic() - began, "driver_peak_mb": peak / 2**20})
            print(
                "{images:>7,} images {fps:>9,.1f} images/s {seconds:>7.1f} s in all {driver_peak_mb:>7.0f} MB".format(**rows[-1])
            )
    path = Path("out/benchmarks/growth.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    main()
