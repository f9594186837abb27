"""What each fault costs on two simulated LoudBoxes: rows lost, doubled or changed, and seconds until every image has its row.

python -m tests.benchmarks.faults [rounds]     as root, for the rig
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

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
}


def one_run(rig: Rig, data: Path, out: Path, fault: str) -> tuple[float, Answers]:
    """Seconds until the job ended well, once resumed if that took it, and what it answered."""
    strike, timing, arguments = FAULTS[fault]

    def start(*more: str) -> Job:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return Job(rig.start(["python", *command(data, out, timing, *arguments, *more)], **pipes), out)

    began = time.monotonic()
    job = start()
    job.wait_for_commits(FAULT_AFTER.get(fault, MIDDLE))
    strike(rig, job)
    done = job.end()
    if done.code:
        done = start("--resume").end()
    assert done.code == 0, done.output
    return time.monotonic() - began, answers(out)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows = []
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch, Rig(loudboxes=2, object_store_mb=300) as rig:
        data = write_shards(Path(scratch, "data"), CHUNKS)
        _, expected = one_run(rig, data, Path(scratch, "expected"), "none")
        for current in range(rounds):
            for fault in FAULTS:
                seconds, got = one_run(rig, data, Path(scratch, f"{fault}-{current}".replace(" ", "-")), fault)
                if "loudbox-2" not in rig.hosts:
                    rig.add_host("loudbox-2")
                lost = len(expected.rows.keys() - got.rows.keys())
                changed = sum(got.rows[image] != expected.rows[image] for image in got.rows)
                rows.append({"fault": fault, "round": current, "seconds": seconds, "lost": lost, "changed": changed})
                print(f"{fault}: {seconds:.1f} s, {lost} rows lost, {changed} changed, none doubled", flush=True)
    undisturbed = median(row["seconds"] for row in rows if row["fault"] == "none")
    print(f"\n{'fault':<30} {'lost':>5} {'changed':>8} {'seconds':>8} {'more than none':>15}   simulated meshes, {rounds} rounds")
    for fault in FAULTS:
        of = [row for row in rows if row["fault"] == fault]
        seconds = median(row["seconds"] for row in of)
        lost, changed = (sum(row[name] for row in of) for name in ("lost", "changed"))
        print(f"{fault:<30} {lost:>5} {changed:>8} {seconds:>8.1f} {seconds - undisturbed:>15.1f}")
    path = Path("out/benchmarks/faults.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    main()
