"""Where the whole command's time went: what surrounds the streaming, and the rate that is left of it."""

from __future__ import annotations

from jobs.reporting.page.markup import duration, section, table
from jobs.reporting.schema import Summary
from jobs.running.phases import PHASES


def job_time(summary: Summary) -> str:
    if summary.job_seconds is None:
        return ""
    note = (
        f"The command took {duration(summary.job_seconds)}: {summary.job_fps or 0:,.1f} images per second from its start to its "
        "reports. Throughput above is of the streaming alone, first batch to last."
    )
    times = [(phase, meaning, summary.phase_seconds(phase)) for phase, meaning in PHASES.items()]
    rows = [(name, duration(took), f"{took / max(summary.job_seconds, 1e-9):.0%}", meaning) for name, meaning, took in times]
    return section("The whole command", note, table(["Phase", "#Time", "#Share", "What it holds"], rows))
