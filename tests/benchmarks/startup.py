"""What surrounds the work: seconds of whole processes, help and mistakes among them, and CPU seconds of each kind of worker.

python -m tests.benchmarks.startup [rounds]

The yardstick is a trivial Ray Data job: ten rows through an actor pool of one, on a Ray with all its processes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from jobs.running.phases import PHASES
from tests.benchmarks.bench import argument
from tests.commands import ROOT
from tests.conftest import ray_head
from tests.faults.running import summary
from tests.processes import processes

TRIVIAL = """
import logging, sys
import ray, ray.data
from ray.data import ActorPoolStrategy
class Same:
    def __call__(self, batch):
        return batch
local = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
ray.init(**({"address": sys.argv[1]} if len(sys.argv) > 1 else local), logging_level=logging.CRITICAL, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
assert len(ray.data.range(10).map_batches(Same, compute=ActorPoolStrategy(size=1)).take_all()) == 10
ray.shutdown()
"""
KINDS = {"Classifier": "actor", "read_chunks": "decode worker", "Ledger": "ledger"}
"""What a Ray worker calls itself while it works -> what it is here."""


def measure(command: list[str], environment: dict[str, str], code: int) -> tuple[float, Counter[str]]:
    """Seconds from a command's start to its exit, and CPU seconds by kind of process, the command's own under "driver"."""
    mark, began = uuid.uuid4().hex, time.monotonic()
    whole = {**os.environ, **environment, "STARTUP_BENCHMARK": mark}
    driver = subprocess.Popen(command, cwd=ROOT, env=whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen: dict[int, tuple[str, float]] = {}
    watcher = threading.Thread(target=watch, args=(driver, f"STARTUP_BENCHMARK={mark}", seen), daemon=True)
    watcher.start()
    assert driver.wait() == code, f"{command} ended with {driver.returncode}"
    seconds = time.monotonic() - began
    watcher.join()
    cpu: Counter[str] = Counter()
    for pid, (kind, used) in seen.items():
        cpu["driver" if pid == driver.pid else kind] += used  # type: ignore[assignment]
    return seconds, cpu


def watch(driver: subprocess.Popen, variable: str, seen: dict[int, tuple[str, float]]) -> None:
    """Note the CPU time of each process of a command for as long as that runs: pid -> (kind, seconds)."""
    while driver.poll() is None:
        for pid, title in processes("", variable).items():
            with suppress(psutil.Error):
                times, before = psutil.Process(pid).cpu_times(), seen.get(pid, ("other", 0.0))
                kind = next((kind for sign, kind in KINDS.items() if sign in title), before[0])
                seen[pid] = kind, max(times.user + times.system, before[1])
        time.sleep(0.05)


def cases(scratch: Path, address: str) -> dict[str, tuple[list[str], int]]:
    """By name: a command and its exit code. Those with "running" in their name join the running cluster."""
    out = str(scratch / "out")
    job = [sys.executable, "-m", "jobs.imagenet", "--model", "jobs/sample/model", "--data", "jobs/sample/images"]
    return {
        "trivial Ray Data job": ([sys.executable, "-c", TRIVIAL], 0),
        "demo": ([*job, "--out", out, "--overwrite"], 0),
        "trivial job, running cluster": ([sys.executable, "-c", TRIVIAL, address], 0),
        "demo, running cluster": ([*job, "--out", f"{out}-joined", "--overwrite", "--address", address], 0),
        "help": ([*job, "--help"], 0),
        "mistake (wrong path)": ([*job, "--data", "no/such", "--out", out], 2),
        "finished run, --resume": ([*job, "--out", out, "--resume"], 0),
        "jobs.report": ([sys.executable, "-m", "jobs.report", "--out", out], 0),
    }


def main() -> None:
    rounds = argument(1, 5)
    with tempfile.TemporaryDirectory() as directory, ray_head(Path(directory, "home"), "--num-cpus=2") as cluster:
        commands = cases(Path(directory), cluster.address)
        measured: dict[str, list[tuple[float, Counter[str]]]] = {name: [] for name in commands}
        for current in range(-1, rounds):  # the first round fills caches and does not count
            for name, (command, code) in commands.items():
                done = measure(command, cluster.environment if "running" in name else {}, code)
                if current >= 0:
                    measured[name].append(done)
                    print(f"{name}: {done[0]:.2f} s", file=sys.stderr, flush=True)
        phases = summary(Path(directory, "out"))
    print(f"{'':32} {'seconds':>8} {'of trivial':>11}   CPU seconds; medians of {rounds} rounds")
    medians = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in measured.items()}
    for name, runs in measured.items():
        ratio = medians[name] / medians["trivial job, running cluster" if "running" in name else "trivial Ray Data job"]
        kinds = sorted({kind for _, cpu in runs for kind in cpu})
        told = ", ".join(f"{kind} {statistics.median(cpu[kind] for _, cpu in runs):.1f}" for kind in kinds)
        print(f"{name:32} {medians[name]:8.2f} {ratio:10.2f}x   {told}")
    print("the demo's phases, last round: " + ", ".join(f"{phase} {phases[f'{phase}_seconds']:.2f} s" for phase in PHASES))


if __name__ == "__main__":
    main()
