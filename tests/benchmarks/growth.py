"""What grows with the number of images: rate, the driver's peak memory and the object store's; the last row's device is slow.

python -m tests.benchmarks.growth
"""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.benchmarks.bench import imagenet, summary
from tests.benchmarks.corpora import TINY, photo_folder, random_checkpoint


class Peaks(threading.Thread):
    """Of the memory of this process's child, and of what an object store has touched, which stays there until Ray ends."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = self.store = 0
        self.ended = threading.Event()

    def run(self) -> None:
        before = psutil.disk_usage("/dev/shm").used
        while not self.ended.wait(0.05):
            self.store = max(self.store, psutil.disk_usage("/dev/shm").used - before)
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    self.driver = max(self.driver, child.memory_info().rss)


def main() -> None:
    print(f"{'images':>7} {'device':>22} {'images/s':>9} {'seconds':>8} {'driver MB':>10} {'object store MB':>16}")
    with tempfile.TemporaryDirectory() as scratch:
        model = random_checkpoint(Path(scratch) / "model", **TINY)
        for images, compute in ((1_000, "5.84ms"), (4_000, "5.84ms"), (16_000, "5.84ms"), (16_000, "100ms")):
            here = Path(scratch) / f"{images}-{compute}"
            data, peaks = photo_folder(here / "data", images), Peaks()
            peaks.start()
            began = time.monotonic()
            imagenet(data, model, here / "out", "--device=simulated", f"--simulate=compute={compute}")
            seconds = time.monotonic() - began
            peaks.ended.set()
            rate, device = summary(here / "out")["system_fps"], f"simulated, {compute}"
            memory = f"{peaks.driver / 1e6:>10,.0f} {peaks.store / 1e6:>16,.0f}"
            print(f"{images:>7,} {device:>22} {rate:>9,.1f} {seconds:>8.1f} {memory}", flush=True)


if __name__ == "__main__":
    main()
