"""Alternatives measured side by side: one after the other in every round, so that a busy machine slows them alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def interleave(
    alternatives: dict[str, Callable[[], int]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> pa.Table:
    """Call every alternative once per round, starting with another each time, after one round that does not count.

    An alternative does its work and returns how many images that was. `clock` tells seconds: `time.process_time` for work on
    one core that other programs should not disturb. Gives one row per call: name, round, images, seconds.
    """
    names = list(alternatives)
    rows = []
    for current in range(-1, rounds):
        for position in range(len(names)):
            name = names[(current + position) % len(names)]
            started = clock()
            images = alternatives[name]()
            seconds = clock() - started
            if current >= 0:
                rows.append({"name": name, "round": current, "images": images, "seconds": seconds})
    return pa.Table.from_pylist(rows)


def machine() -> str:
    """This machine's CPU: its name, the cores this process may use, and the widest arithmetic that matters to a ViT."""
    fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    widest = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags]
    return (
        f"{fields.get('model name', 'unknown CPU')}, {len(os.sched_getaffinity(0))} cores, {widest[0] if widest else 'no avx2'}"
    )


def report(title: str, runs: pa.Table, baseline: str, path: Path | None = None) -> pa.Table:
    """Print, and write to `path` as Parquet, one row per alternative of `runs`.

    images_per_second: median over rounds, with the fastest and slowest beside it. ratio: median over rounds of its rate over
    the `baseline`'s in the same round.
    """
    rates: dict[str, dict[int, float]] = {}
    for run in runs.to_pylist():
        rates.setdefault(run["name"], {})[run["round"]] = run["images"] / run["seconds"]
    summary = pa.Table.from_pylist(
        [
            {
                "name": name,
                "images_per_second": statistics.median(by_round.values()),
                "slowest": min(by_round.values()),
                "fastest": max(by_round.values()),
                "ratio": statistics.median(rate / rates[baseline][k] for k, rate in by_round.items()),
            }
            for name, by_round in rates.items()
        ]
    )
    print(f"{title}\n{machine()}\n{'':44} {'images/s':>9} {'slowest':>9} {'fastest':>9} {'ratio':>7}")
    for row in summary.to_pylist():
        rate, slowest, fastest = row["images_per_second"], row["slowest"], row["fastest"]
        print(f"{row['name']:44} {rate:9.1f} {slowest:9.1f} {fastest:9.1f} {row['ratio']:6.2f}x")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(summary.replace_schema_metadata({"title": title, "baseline": baseline, "machine": machine()}), path)
    return summary
