"""Alternatives measured side by side: one after the other in every round, so that a busy machine slows them alike."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.commands import ROOT

Rates = dict[str, list[float]]  # Images a second by alternative, one a round


def argument(position: int, default: int) -> int:
    """A number of the command line."""
    return int(sys.argv[position]) if len(sys.argv) > position else default


def interleave(alternatives: Mapping[str, Callable[[], int]], rounds: int) -> Rates:
    """Call every alternative once per round, starting with another each time, after one round that does not count.

    An alternative does its work and returns how many images that was.
    """
    names = list(alternatives)
    rates: Rates = {name: [] for name in names}
    for current in range(-1, rounds):
        for position in range(len(names)):
            name = names[(current + position) % len(names)]
            started = time.perf_counter()
            images = alternatives[name]()
            if current >= 0:
                rates[name].append(images / (time.perf_counter() - started))
    return rates


def machine() -> str:
    """This machine's CPU: its name, the cores this process may use, and the widest arithmetic that matters to a ViT."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    fields = {name.strip(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    flags = fields.get("flags", "").split()
    widest = next((flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), "no avx2")
    return f"{fields.get('model name', 'unknown CPU')}, {len(os.sched_getaffinity(0))} cores, {widest}"


def report(title: str, rates: Rates, baseline: str) -> None:
    """Print a line an alternative: its median rate over rounds, the slowest, the fastest, the median ratio to `baseline`'s."""
    print(f"{title}\n{machine()}\n{'':44} {'images/s':>9} {'slowest':>9} {'fastest':>9} {'ratio':>7}")
    for name, each in rates.items():
        ratio = statistics.median(rate / base for rate, base in zip(each, rates[baseline], strict=True))
        print(f"{name:44} {statistics.median(each):9.1f} {min(each):9.1f} {max(each):9.1f} {ratio:6.2f}x")


def imagenet(data: Path, model: Path, out: Path) -> None:
    """A whole command."""
    line = ["-m", "jobs.imagenet", "--data", str(data), "--model", str(model), "--out", str(out)]
    subprocess.run([sys.executable, *line], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
