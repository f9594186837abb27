"""What surrounds the work: seconds of whole processes, help and mistakes among them, and CPU seconds of each kind of worker.

python -m tests.benchmarks.startup [rounds] [commit]     commit: an earlier one, measured in turn with this one

The yardstick is a trivial Ray Data job: ten rows through an actor pool of one, on a Ray with all its processes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.running.phases import PHASES
from tests.commands import ROOT
from tests.conftest import ray_head

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

SAMPLE = ("--data", "jobs/sample/images", "--model", "jobs/sample/model")

KINDS = {"Classifier": "actor", "read_chunks": "decode worker", "Ledger": "ledger"}
"""What a Ray worker calls itself while it works -> what it is here."""


@dataclass(frozen=True)
class Measured:
    """seconds: from start to exit. cpu: CPU seconds by kind of process, the command's own under "driver"."""

    seconds: float
    cpu: dict[str, float]


def measure(command: list[str], tree: Path, environment: dict[str, str], code: int) -> Measured:
    """Run a command to its end, and watch it and every process that has its environment."""
    mark = f"STARTUP_BENCHMARK={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")
    began = time.monotonic()
    driver = subprocess.Popen(
        command,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), **environment, name: value},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seen: dict[str, tuple[str, float]] = {}
    watcher = threading.Thread(target=watch, args=(driver, mark.encode(), seen), daemon=True)
    watcher.start()
    assert driver.wait() == code, f"{command} ended with {driver.returncode}"
    seconds = time.monotonic() - began
    watcher.join()
    cpu: dict[str, float] = {}
    for pid, (kind, used) in seen.items():
        kind = "driver" if pid == str(driver.pid) else kind
        cpu[kind] = cpu.get(kind, 0.0) + used
    return Measured(seconds, cpu)


def watch(driver: subprocess.Popen, mark: bytes, seen: dict[str, tuple[str, float]]) -> None:
    """Note the CPU time of each process of a command for as long as that runs: pid -> (kind, seconds)."""
    tick = os.sysconf("SC_CLK_TCK")
    while driver.poll() is None:
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                if mark not in (process / "environ").read_bytes():
                    continue
                title = (process / "cmdline").read_text(errors="replace")
                used = sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13])) / tick
            except OSError:
                continue
            kind = next((kind for sign, kind in KINDS.items() if sign in title), None)
            before = seen.get(process.name, ("other", 0.0))
            seen[process.name] = (kind or before[0], max(used, before[1]))
        time.sleep(0.05)


def cases(tree: Path, scratch: Path, address: str) -> dict[str, tuple[list[str], int, bool]]:
    """By name: a command, its exit code, and whether it joins the running cluster."""
    out, finished = str(scratch / "out"), str(scratch / "finished")
    job = [sys.executable, "-m", "jobs.imagenet", *SAMPLE]
    return {
        "trivial Ray Data job": ([sys.executable, "-c", TRIVIAL], 0, False),
        "demo": ([*job, "--out", out, "--overwrite"], 0, False),
        "trivial job, running cluster": ([sys.executable, "-c", TRIVIAL, address], 0, True),
        "demo, running cluster": ([*job, "--out", f"{out}-joined", "--overwrite", "--address", address], 0, True),
        "help": ([sys.executable, "-m", "jobs.imagenet", "--help"], 0, False),
        "mistake (wrong path)": ([*job[:3], "--data", "no/such", *SAMPLE[2:], "--out", out], 2, False),
        "finished run, --resume": ([*job, "--out", finished, "--resume"], 0, False),
        "jobs.report": ([sys.executable, "-m", "jobs.report", "--out", finished], 0, False),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(ray_head(scratch / "home", "--num-cpus=2"))
        trees = {"now": ROOT}
        if len(sys.argv) > 2:
            trees["before"] = scratch / "before"
            subprocess.run(["git", "worktree", "add", "--detach", trees["before"], sys.argv[2]], cwd=ROOT, check=True)
            gone = ["git", "worktree", "remove", "--force", str(trees["before"])]
            stack.callback(lambda: subprocess.run(gone, cwd=ROOT, check=True))
        measured: dict[tuple[str, str], list[Measured]] = {}
        for current in range(-1, rounds):  # the first round fills caches and does not count
            for version, tree in trees.items():
                (scratch / version).mkdir(exist_ok=True)
                for name, (command, code, joins) in cases(tree, scratch / version, cluster.address).items():
                    if current < 0 and name == "demo":
                        begin = [*command[:-3], "--out", str(scratch / version / "finished")]
                        measure(begin, tree, {}, 0)
                    environment = cluster.environment if joins else {}
                    done = measure(command, tree, environment | {"PYTHONPATH": str(tree)}, code)
                    if current >= 0:
                        measured.setdefault((version, name), []).append(done)
                        print(f"{version}, {name}: {done.seconds:.2f} s", file=sys.stderr, flush=True)
        summary = pq.read_table(scratch / "now" / "out" / "report" / "summary.parquet").to_pylist()[0]
    tell(measured, list(trees), rounds)
    print("the demo's phases, last round: " + ", ".join(f"{phase} {summary[f'{phase}_seconds']:.2f} s" for phase in PHASES))


def tell(measured: dict[tuple[str, str], list[Measured]], versions: list[str], rounds: int) -> None:
    """Medians as a table, and as Parquet in out/benchmarks."""
    medians = {key: statistics.median(done.seconds for done in runs) for key, runs in measured.items()}
    against: Callable[[str], str] = lambda name: "trivial job, running cluster" if "running" in name else "trivial Ray Data job"  # noqa: E731
    rows = []
    print(f"{'':32} {'seconds':>8} {'of trivial':>11} {'before':>8}   CPU seconds, median ({rounds} rounds)")
    for (version, name), runs in measured.items():
        if version != "now":
            continue
        before = medians.get(("before", name))
        ratio = medians["now", name] / medians["now", against(name)]
        kinds = sorted({kind for done in runs for kind in done.cpu})
        cpu = {kind: statistics.median(done.cpu.get(kind, 0.0) for done in runs) for kind in kinds}
        told = ", ".join(f"{kind} {used:.1f}" for kind, used in cpu.items())
        print(f"{name:32} {medians['now', name]:8.2f} {ratio:10.2f}x {before or float('nan'):8.2f}   {told}")
        rows.append({"name": name, "seconds": medians["now", name], "before": before, "ratio": ratio, "cpu": told})
    for name in [name for version, name in measured if version == "before" and name.startswith("demo")]:
        runs = measured["before", name]
        kinds = sorted({kind for done in runs for kind in done.cpu})
        told = ", ".join(f"{kind} {statistics.median(done.cpu.get(kind, 0.0) for done in runs):.1f}" for kind in kinds)
        print(f"before, {name}: CPU seconds {told}")
    path = Path("out/benchmarks/startup.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    main()
