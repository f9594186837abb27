"""`python -m tests.soak --minutes 30 --every 20`: runs on four simulated meshes under one random fault after another.

Each fault is real: an actor or a decode worker killed, a LoudBox switched off and on again, the driver killed and resumed.
Every run must end with each image's one right answer; a ledger of the faults and of memory is printed. Exit code 1 if
anything was lost, doubled or wrong, or if memory grew. Takes root, for the rig's namespaces.

`python -m tests.soak --storage --minutes 30`: jobs on one host under random faults of storage instead; see
tests/storage_faults/campaign.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.commands import Command
from tests.faults.running import Answers, Job, answers, command, committed, workers, write_shards
from tests.rig import Rig
from tests.storage_faults.campaign import run_campaign

SHARDS = 96
TIMING = "compute=700ms"
"""A run of 96 chunks on four meshes takes at least 17 s: long enough to be hit, short enough for many of them."""
FAULTS = ("actor", "decode", "host", "driver")
HOSTS = 4
PATIENCE = 5.0
"""Seconds to wait for a decode task to hit: one lasts milliseconds."""
PEACE = 600.0
"""Seconds that the last run has to its end once the faults are over."""
GROWTH = 1.3
"""The most that the head's memory may be in the last quarter of the soak, relative to its second: at first it fills caches."""


@dataclass
class Ledger:
    """What was done to the cluster, what came of it, and how much memory the head's processes held in between."""

    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    images: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    failed: int = 0
    memory: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def memory_grew(self) -> bool:
        _, second, _, last = quarters(self.memory)
        return bool(second) and sum(last) / len(last) > GROWTH * sum(second) / len(second)


def quarters(values: list[int]) -> list[list[int]]:
    """Four parts of one length, without a rest of up to three values."""
    length = len(values) // 4
    return [values[start : start + length] for start in range(0, 4 * length, length or 1)] or [[]] * 4


class Troublemaker(threading.Thread):
    """Does one random fault every so many seconds for so many minutes; drivers are killed through `job`."""

    def __init__(self, rig: Rig, minutes: float, every: float, seed: int, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self.rig, self.every, self.ledger = rig, every, ledger
        self.random = random.Random(seed)
        self.job: Job | None = None
        self.until = time.monotonic() + 60 * minutes

    def run(self) -> None:
        while time.monotonic() < self.until:
            time.sleep(self.every * self.random.uniform(0.5, 1.5))
            self.ledger.memory.append(head_memory(self.rig))
            fault = self.random.choice(FAULTS)
            done = self.do(fault)
            self.ledger.faults[fault if done else f"{fault} (none there)"] += 1
            print(f"{time.strftime('%H:%M:%S')} {fault:<7}{done or 'none there to kill'}", flush=True)

    def do(self, fault: str) -> str:
        """What was hit; empty where there was nothing to hit."""
        if fault == "host":
            name = self.random.choice([f"loudbox-{n + 1}" for n in range(HOSTS)])
            if name in self.rig.hosts:
                self.rig.kill_host(name)
            try:
                self.rig.add_host(name)
            except subprocess.SubprocessError:  # Ray's start has limits, which an overloaded machine exceeds
                return f"{name} off, and not on again for now"
            return f"{name} off and on again"
        if fault == "driver":
            job = self.job
            if job is None or job.process.poll() is not None or not committed(job.out):
                return ""
            kill_driver(job)
            return f"after {len(committed(job.out))} chunks"
        title = {"actor": "Classifier", "decode": "read_chunks"}[fault]
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            found = workers(str(self.rig.directory / "home"), title)
            for pid in self.random.sample(found, len(found)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return f"process {pid}"
            time.sleep(0.01)
        return ""


def kill_driver(job: Job, how: signal.Signals = signal.SIGKILL) -> None:
    """A signal for a command on the rig: not for nsenter, which waits for it."""
    for child in Path(f"/proc/{job.process.pid}/task/{job.process.pid}/children").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(child), how)


def head_memory(rig: Rig) -> int:
    """Resident bytes of what lives on the head from the first run to the last: Ray's own services, not drivers and workers."""
    head, total = os.readlink(f"/proc/{rig.hosts['head'].pid}/ns/pid"), 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            program = (process / "cmdline").read_bytes()
            service = (
                b"gcs_server" in program.split(b"\0")[0] or b"raylet" in program.split(b"\0")[0] or b"ray/dashboard" in program
            )
            if service and os.readlink(process / "ns" / "pid") == head:
                total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return total


def one_run(rig: Rig, trouble: Troublemaker, data: Path, out: Path) -> str:
    """Start a run and resume it for as long as its driver is killed; what it said last if it failed, else nothing."""
    resume: list[str] = []
    while True:
        line = ["python", *command(data, out, TIMING, *resume)]
        driver = Command(lambda stdout, stderr, line=line: rig.start(line, stdout=stdout, stderr=stderr))  # type: ignore[misc]
        trouble.job = Job(driver, out)
        try:
            done = driver.end(max(0, trouble.until - time.monotonic()) + PEACE)
        except AssertionError as error:
            os.killpg(driver.pid, signal.SIGKILL)
            return f"{PEACE:g} s after the last fault: {str(error)[-2000:]}"
        trouble.job = None
        if done.code == 0:
            return ""
        if done.code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return done.output[-2000:]
        resume = ["--resume"] if (out / "manifest.json").exists() else ["--overwrite"]


def compare(got: Answers, expected: Answers, ledger: Ledger) -> None:
    ledger.images += len(got.rows)
    ledger.lost += len(expected.rows.keys() - got.rows.keys())
    ledger.wrong += sum(expected.rows.get(image) != row for image, row in got.rows.items())
    ledger.wrong += got.top1 != expected.top1


def soak(minutes: float, every: float, seed: int) -> Ledger:
    """Runs for so many minutes, then the ledger."""
    ledger = Ledger()
    work = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    try:
        with Rig(loudboxes=HOSTS, cpus=1, object_store_mb=300) as rig:
            data = write_shards(work / "data", SHARDS)
            rig.run(["python", *command(data, work / "expected", "compute=1ms")], timeout=600)
            expected = answers(work / "expected")
            trouble = Troublemaker(rig, minutes, every, seed, ledger)
            trouble.start()
            while trouble.is_alive():
                out = work / f"run-{ledger.runs}"
                began = time.monotonic()
                problem = one_run(rig, trouble, data, out)
                ledger.runs += 1
                ledger.seconds.append(time.monotonic() - began)
                if problem:
                    ledger.failed += 1
                    print(f"run {ledger.runs} failed: {problem}", flush=True)
                else:
                    try:
                        compare(answers(out), expected, ledger)
                    except AssertionError as error:
                        ledger.doubled += 1
                        print(f"run {ledger.runs}: {error}", flush=True)
                attempts = json.loads((out / "manifest.json").read_text())["attempts"]
                took = f"{len(attempts)} attempts, {ledger.seconds[-1]:.0f} s"
                print(f"{time.strftime('%H:%M:%S')} run {ledger.runs}: {took}", flush=True)
                shutil.rmtree(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ledger


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
        totals = run_campaign(options.seed, options.minutes, options.faults, options.only)
        print(totals)
        return int(bool(totals.bad))
    ledger = soak(options.minutes, options.every, options.seed)
    print(f"runs      {ledger.runs}, {ledger.failed} failed; {min(ledger.seconds):.0f} to {max(ledger.seconds):.0f} s each")
    print(f"faults    {', '.join(f'{kind} {count}' for kind, count in sorted(ledger.faults.items())) or 'none'}")
    print(f"images    {ledger.images:,}; lost {ledger.lost}, doubled runs {ledger.doubled}, wrong {ledger.wrong}")
    memory = (
        [round(each / 2**20) for each in (ledger.memory[0], max(ledger.memory), ledger.memory[-1])] if ledger.memory else [0] * 3
    )
    print(f"memory    head, MiB: first {memory[0]}, most {memory[1]}, last {memory[2]} (simulated meshes on one machine)")
    return int(bool(ledger.lost or ledger.doubled or ledger.wrong or ledger.failed or ledger.memory_grew()))


if __name__ == "__main__":
    sys.exit(main())
