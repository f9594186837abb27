"""What each fault costs on two simulated LoudBoxes: rows lost, doubled or changed, and seconds until every image has its row.

python -m tests.benchmarks.faults [rounds]     as root, for the rig
"""

import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pyarrow.fs import LocalFileSystem

from tests.benchmarks.bench import argument
from tests.faults.campaign import Rows, Run, rows_in
from tests.faults.running import Job, command, kill_one, write_shards
from tests.rig import Rig

CHUNKS, SLOW = 48, "compute=600ms"  # Chunks of one batch each: on two meshes 14 s of device time
HANGS = "compute=600ms,hang_after=20"  # Either device answers 20 batches of its 24, and no more: both hang once
MIDDLE = 12
"""Committed chunks when a fault comes. A decode task is killed at once: decoding is well ahead of devices as slow as these."""

Strike = Callable[[Rig, Job], object]


def kill_worker(title: str) -> Strike:
    return lambda rig, _: kill_one(rig.home, title)


def kill_driver(how: signal.Signals) -> Strike:
    return lambda rig, job: rig.send(job.process.pid, how)


def kill_service(program: str) -> Strike:
    """Of Ray, on the head, where the driver is too: the only processes that a command there sees are the head's."""
    return lambda rig, _: rig.run(["pkill", "-KILL", "-x", program])


def lose_host(rig: Rig, _: Job) -> None:
    rig.kill_host("loudbox-2")


def lose_host_for_a_while(rig: Rig, _: Job) -> None:
    rig.kill_host("loudbox-2")
    rig.add_host("loudbox-2")


def nothing(_: Rig, __: Job) -> None:
    pass


FAULTS: dict[str, Strike] = {
    "none": nothing,
    "actor killed in mid-batch": kill_worker("Classifier"),
    "decode task killed": kill_worker("read_chunks"),
    "both devices hang, limit 5 s": nothing,
    "host lost, and back": lose_host_for_a_while,
    "host lost for good": lose_host,
    "driver killed, --resume": kill_driver(signal.SIGKILL),
    "SIGTERM, --resume": kill_driver(signal.SIGTERM),
    "SIGINT, --resume": kill_driver(signal.SIGINT),
    "ledger killed, --resume": kill_worker("Ledger"),
    "scheduler killed, --resume": kill_service("raylet"),
    "control service killed, --resume": kill_service("gcs_server"),
}
ENDS_RAY = ("scheduler", "control service")  # The resume is on another cluster, whose start does not count


def two_loudboxes() -> Rig:
    return Rig(loudboxes=2, object_store_mb=300)


def run(rig: Rig, data: Path, out: Path, fault: str, *more: str) -> tuple[float, int]:
    """A run that the fault comes to, or its resume: its seconds and exit code."""
    hangs = "hang" in fault
    line = ["python", *command(data, out, HANGS if hangs else SLOW, *(["--device-limit=5"] if hangs else []), *more)]
    began = time.monotonic()
    job = Job(rig.command(line), out)
    if not more:
        job.wait_for_commits(0 if "decode" in fault else MIDDLE)
        FAULTS[fault](rig, job)
    done = job.end()
    assert not more or done.code == 0, done.output
    return time.monotonic() - began, done.code


def measure(rig: Rig, data: Path, out: Path, fault: str) -> tuple[float, Rows]:
    """Seconds until the job ended well, once resumed if that took it, and its rows."""
    if "loudbox-2" not in rig.hosts:
        rig.add_host("loudbox-2")
    if fault.startswith(ENDS_RAY):
        with two_loudboxes() as other:
            seconds, code = run(other, data, out, fault)
        assert code == 1, f"it ended with {code}"
    else:
        seconds, code = run(rig, data, out, fault)
    seconds += run(rig, data, out, fault, "--resume")[0] if code else 0.0
    return seconds, rows_in(str(out), LocalFileSystem())


def main() -> None:
    measured: dict[str, list[tuple[float, Run]]] = {fault: [] for fault in FAULTS}
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch, two_loudboxes() as rig:
        data = write_shards(Path(scratch, "data"), CHUNKS)
        _, expected = measure(rig, data, Path(scratch, "expected"), "none")
        for current in range(argument(1, 3)):
            for number, fault in enumerate(FAULTS):
                seconds, rows = measure(rig, data, Path(scratch, f"out-{current}-{number}"), fault)
                found = Run(fault)
                found.compare(rows, expected)
                measured[fault].append((seconds, found))
                print(f"{fault}: {seconds:.1f} s, {found.problems or 'every row right'}", flush=True)
    undisturbed = median(seconds for seconds, _ in measured["none"])
    print(f"\n{'fault':<34} {'lost':>5} {'doubled':>8} {'changed':>8} {'seconds':>8} {'more than none':>15}   simulated meshes")
    for fault, runs in measured.items():
        seconds = median(seconds for seconds, _ in runs)
        lost, doubled, changed = (sum(getattr(found, what) for _, found in runs) for what in ("lost", "doubled", "wrong"))
        print(f"{fault:<34} {lost:>5} {doubled:>8} {changed:>8} {seconds:>8.1f} {seconds - undisturbed:>15.1f}")


if __name__ == "__main__":
    main()
