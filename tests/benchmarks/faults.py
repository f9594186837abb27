"""What each fault costs on two simulated LoudBoxes: rows lost, doubled or changed, and seconds until every image has its row.

python -m tests.benchmarks.faults [rounds]     as root, for the rig
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.commands import Command
from tests.faults.running import Answers, Job, answers, command, kill_one, write_shards
from tests.rig import Rig
from tests.soak import kill_driver

CHUNKS, SLOW = 48, "compute=600ms"
"""Chunks of one batch each: on two meshes 14 s of device time."""
HANGS = "compute=600ms,hang_after=20"
"""Either device answers 20 batches of its 24, and no more: both hang once."""
FAULT_AFTER = {"decode task killed": 0}
"""Committed chunks when the fault comes, if not MIDDLE: decoding is well ahead of devices as slow as these."""
MIDDLE = 12

Strike = Callable[[Rig, Job], object]


def kill_worker(title: str) -> Strike:
    return lambda rig, _: kill_one(str(rig.directory / "home"), title)


def lose_host(rig: Rig, _: Job) -> None:
    rig.kill_host("loudbox-2")


def lose_host_for_a_while(rig: Rig, _: Job) -> None:
    rig.kill_host("loudbox-2")
    rig.add_host("loudbox-2")


def kill_service(program: str) -> Strike:
    """Of Ray, on the head, where the driver is too."""

    def strike(rig: Rig, _: Job) -> None:
        head = os.readlink(f"/proc/{rig.hosts['head'].pid}/ns/pid")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                named = program.encode() in (process / "cmdline").read_bytes().split(b"\0")[0]
                if named and os.readlink(process / "ns" / "pid") == head:
                    os.kill(int(process.name), signal.SIGKILL)

    return strike


def nothing(_: Rig, __: Job) -> None:
    pass


FAULTS: dict[str, tuple[Strike, str, tuple[str, ...]]] = {
    "none": (nothing, SLOW, ()),
    "actor killed in mid-batch": (kill_worker("Classifier"), SLOW, ()),
    "decode task killed": (kill_worker("read_chunks"), SLOW, ()),
    "both devices hang, limit 5 s": (nothing, HANGS, ("--device-limit=5",)),
    "host lost, and back": (lose_host_for_a_while, SLOW, ()),
    "host lost for good": (lose_host, SLOW, ()),
    "driver killed, --resume": (lambda _, job: kill_driver(job), SLOW, ()),
    "SIGTERM, --resume": (lambda _, job: kill_driver(job, signal.SIGTERM), SLOW, ()),
    "SIGINT, --resume": (lambda _, job: kill_driver(job, signal.SIGINT), SLOW, ()),
    "ledger killed, --resume": (kill_worker("Ledger"), SLOW, ()),
    "scheduler killed, --resume": (kill_service("raylet/raylet"), SLOW, ()),
    "control service killed, --resume": (kill_service("gcs/gcs_server"), SLOW, ()),
}
ENDS_RAY = ("scheduler killed, --resume", "control service killed, --resume")
"""The resume is on another cluster, whose start does not count."""


def two_loudboxes() -> Rig:
    return Rig(loudboxes=2, object_store_mb=300)


def start(rig: Rig, data: Path, out: Path, fault: str, *more: str) -> Job:
    _, timing, arguments = FAULTS[fault]
    line = ["python", *command(data, out, timing, *arguments, *more)]
    return Job(Command(lambda stdout, stderr: rig.start(line, stdout=stdout, stderr=stderr)), out)


def struck(rig: Rig, data: Path, out: Path, fault: str) -> tuple[float, int]:
    """A run that the fault comes to: its seconds and exit code."""
    began = time.monotonic()
    job = start(rig, data, out, fault)
    job.wait_for_commits(FAULT_AFTER.get(fault, MIDDLE))
    FAULTS[fault][0](rig, job)
    done = job.end()
    return time.monotonic() - began, done.code


def resumed(rig: Rig, data: Path, out: Path, fault: str) -> float:
    """The seconds of the resume."""
    began = time.monotonic()
    done = start(rig, data, out, fault, "--resume").end()
    assert done.code == 0, done.output
    return time.monotonic() - began


def one_run(rig: Rig, data: Path, out: Path, fault: str) -> tuple[float, Answers]:
    """Seconds until the job ended well, once resumed if that took it, and what it answered."""
    seconds, code = struck(rig, data, out, fault)
    return seconds + (resumed(rig, data, out, fault) if code else 0.0), answers(out)


def one_run_on_two_clusters(data: Path, out: Path, fault: str) -> tuple[float, Answers]:
    """The same for a fault that ends Ray."""
    with two_loudboxes() as rig:
        seconds, code = struck(rig, data, out, fault)
    assert code == 1, f"it ended with {code}"
    with two_loudboxes() as rig:
        return seconds + resumed(rig, data, out, fault), answers(out)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows: list[dict[str, Any]] = []

    def note(fault: str, current: int, seconds: float, got: Answers) -> None:
        lost = len(expected.rows.keys() - got.rows.keys())
        changed = sum(got.rows[image] != expected.rows[image] for image in got.rows)
        rows.append({"fault": fault, "round": current, "seconds": seconds, "lost": lost, "changed": changed})
        print(f"{fault}: {seconds:.1f} s, {lost} rows lost, {changed} changed, none doubled", flush=True)

    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        data = write_shards(Path(scratch, "data"), CHUNKS)
        with two_loudboxes() as rig:
            _, expected = one_run(rig, data, Path(scratch, "expected"), "none")
            for current in range(rounds):
                for fault in (each for each in FAULTS if each not in ENDS_RAY):
                    note(fault, current, *one_run(rig, data, Path(scratch, f"{fault}-{current}".replace(" ", "-")), fault))
                    if "loudbox-2" not in rig.hosts:
                        rig.add_host("loudbox-2")
        for current in range(rounds):
            for fault in ENDS_RAY:
                note(fault, current, *one_run_on_two_clusters(data, Path(scratch, f"{fault}-{current}".replace(" ", "-")), fault))
    undisturbed = median(row["seconds"] for row in rows if row["fault"] == "none")
    print(f"\n{'fault':<34} {'lost':>5} {'changed':>8} {'seconds':>8} {'more than none':>15}   simulated meshes, {rounds} rounds")
    for fault in FAULTS:
        of = [row for row in rows if row["fault"] == fault]
        seconds = median(row["seconds"] for row in of)
        lost, changed = (sum(row[name] for row in of) for name in ("lost", "changed"))
        print(f"{fault:<34} {lost:>5} {changed:>8} {seconds:>8.1f} {seconds - undisturbed:>15.1f}")
    path = Path("out/benchmarks/faults.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    main()
