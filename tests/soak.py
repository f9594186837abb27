"""`python -m tests.soak --minutes 30 --every 20`: runs on four simulated meshes under one random fault after another.

Each fault is real: an actor or a decode worker killed, a LoudBox switched off and on again, the driver killed and resumed.
Every run must end with each image's one right answer, and memory must not grow, or the exit code is 1. Takes root, for the rig.

`python -m tests.soak --storage --minutes 30`: jobs on one host under random faults of storage instead; see
tests/storage_faults/campaign.py.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from pyarrow.fs import LocalFileSystem

from tests.faults.campaign import Rows, Run, campaign, rows_in
from tests.faults.running import Job, command, committed, workers, write_shards
from tests.rig import Rig
from tests.storage_faults.campaign import storage_campaign

SHARDS = 96
TIMING = "compute=700ms"
"""A run of 96 chunks on four meshes takes at least 17 s: long enough to be hit, short enough for many of them."""
HOSTS = 4
PATIENCE = 5.0  # Seconds to wait for a decode task to hit: one lasts milliseconds
PEACE = 600.0  # Seconds that the last run has to its end once the faults are over
GROWTH = 1.3
"""The most that the head's memory may be in the last quarter of the soak, relative to its second: at first it fills caches."""


class Troublemaker(threading.Thread):
    """Does one random fault every so many seconds for so many minutes; drivers are killed through `job`."""

    def __init__(self, rig: Rig, minutes: float, every: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.rig, self.every, self.random = rig, every, random.Random(seed)
        self.job: Job | None = None
        self.until = time.monotonic() + 60 * minutes
        self.fired: Counter[str] = Counter()
        self.memory: list[int] = []

    def run(self) -> None:
        while time.monotonic() < self.until:
            time.sleep(self.every * self.random.uniform(0.5, 1.5))
            self.memory.append(head_memory(self.rig))
            fault = self.random.choice((self.kill_worker, self.lose_host, self.kill_driver))
            done = fault()
            self.fired[fault.__name__] += bool(done)
            print(f"{time.strftime('%H:%M:%S')} {fault.__name__}: {done or 'none there'}", flush=True)

    def lose_host(self) -> str:
        name = f"loudbox-{self.random.randint(1, HOSTS)}"
        if name in self.rig.hosts:
            self.rig.kill_host(name)
        try:
            self.rig.add_host(name)
        except subprocess.SubprocessError:  # Ray's start has limits, which an overloaded machine exceeds
            return f"{name} off, and not on again for now"
        return f"{name} off and on again"

    def kill_driver(self) -> str:
        job = self.job
        if job is None or job.process.poll() is not None or not committed(job.out):
            return ""
        self.rig.send(job.process.pid, signal.SIGKILL)
        return f"after {len(committed(job.out))} chunks"

    def kill_worker(self) -> str:
        title, limit = self.random.choice(("Classifier", "read_chunks")), time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            if found := workers(self.rig.home, title):
                with suppress(ProcessLookupError):
                    os.kill(self.random.choice(found), signal.SIGKILL)
                    return title
            time.sleep(0.01)
        return ""

    def memory_grew(self) -> bool:
        """Whether the head held more in the last quarter than in the second."""
        length = len(self.memory) // 4
        second, last = self.memory[length : 2 * length], self.memory[3 * length : 4 * length]
        return sum(last) > GROWTH * sum(second)


def head_memory(rig: Rig) -> int:
    """KiB of what lives on the head from the first run to the last: Ray's own services, not drivers and workers."""
    lines = (line.split(maxsplit=1) for line in rig.run(["ps", "-eo", "rss=,args="]).stdout.splitlines())
    return sum(int(size) for size, program in lines if re.match(r"\S*/(raylet|gcs_server) |.*ray/dashboard", program))


def one_run(rig: Rig, trouble: Troublemaker, data: Path, out: Path, expected: Rows) -> Run:
    """Start a run and resume it for as long as its driver is killed."""
    resume, attempts, run = list[str](), 0, Run("")
    while True:
        driver = rig.command(["python", *command(data, out, TIMING, *resume)])
        trouble.job, attempts = Job(driver, out), attempts + 1
        try:
            done = driver.end(max(0, trouble.until - time.monotonic()) + PEACE)
        except AssertionError as error:
            os.killpg(driver.pid, signal.SIGKILL)
            run.problems.append((f"no end {PEACE:g} s after the last fault", str(error)[-2000:]))
            break
        if done.code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            run.problems += [(f"exit code {done.code}", done.output[-2000:])] if done.code else []
            break
        resume = ["--resume"] if (out / "manifest.json").exists() else ["--overwrite"]
    trouble.job, run.about = None, f"{attempts} attempts"
    run.fired, trouble.fired = trouble.fired, Counter()
    run.compare(rows_in(str(out), LocalFileSystem()), expected)
    shutil.rmtree(out)
    return run


def soak(minutes: float, every: float, seed: int) -> bool:
    """Whether every run was right and memory did not grow."""
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp") as work, Rig(HOSTS, cpus=1, object_store_mb=300) as rig:
        data, undisturbed = write_shards(Path(work, "data"), SHARDS), Path(work, "expected")
        rig.run(["python", *command(data, undisturbed, "compute=1ms")], timeout=600)
        expected = rows_in(str(undisturbed), LocalFileSystem())
        trouble = Troublemaker(rig, minutes, every, seed)
        trouble.start()
        right = campaign(lambda number: one_run(rig, trouble, data, Path(work, f"run-{number}"), expected), minutes)
    if trouble.memory:
        first, most, last = (value // 1024 for value in (trouble.memory[0], max(trouble.memory), trouble.memory[-1]))
        print(f"memory of the head, MiB: first {first}, most {most}, last {last} (simulated meshes on one machine)")
    return right and not trouble.memory_grew()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="how long to start new runs (default 30)")
    parser.add_argument("--every", type=float, default=20, help="seconds from fault to fault, on average (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults (default 0)")
    parser.add_argument("--storage", action="store_true", help="faults of storage, on one host and in a bucket")
    parser.add_argument("--faults", type=int, metavar="N", help="of storage: end when so many have fired")
    parser.add_argument("--only", type=int, metavar="RUN", help="of storage: that run of the seed alone")
    options = parser.parse_args()
    if options.storage:
        return int(not storage_campaign(options.seed, options.minutes, options.faults, options.only))
    return int(not soak(options.minutes, options.every, options.seed))


if __name__ == "__main__":
    sys.exit(main())
