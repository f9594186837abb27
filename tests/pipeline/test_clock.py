"""A wall clock that is set in mid-run moves no batch, and is told."""

import time
from pathlib import Path

import numpy as np
import pytest

from jobs.pipeline.classify import steady
from jobs.reporting.terminal_table import summary_table
from jobs.reporting.write import write_reports
from tests.jobs.prediction_files import metadata, row, write_file, write_manifest
from vit_actor.actor import Part


@pytest.mark.parametrize("jump", [-3600.0, 0.0, 0.3, 7200.0])
@pytest.mark.parametrize("taken_before", [True, False], ids=["before", "after"])
def test_a_batch_was_taken_when_its_process_says_by_its_first_clock(jump: float, taken_before: bool) -> None:
    first = 1e9
    taken = first + time.monotonic() - 0.5
    told = taken if taken_before else taken + jump
    part = Part(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), told, 0.1, number=0, first=0, images=1)
    assert steady(part, taken - 1, first, first + jump).started_at == pytest.approx(taken, abs=0.5)


@pytest.mark.parametrize(
    ("clocks", "boots", "hosts"),
    [
        ([1e9, 1e9 + 0.2], "aa", []),
        ([1e9, 1e9 - 3600], "aa", ["host-a"]),
        ([1e9, 1e9 + 3600], "ab", []),
        ([None, None], "aa", []),
    ],
    ids=["steady", "set", "rebooted", "unknown"],
)
def test_a_clock_that_was_set_is_told(tmp_path: Path, clocks: list[float | None], boots: str, hosts: list[str]) -> None:
    for number, (clock, boot) in enumerate(zip(clocks, boots, strict=True)):
        footer = metadata(mesh="host-a/0-3", chunk=f"c{number}", clock=clock, boot=boot)
        write_file(tmp_path, f"{number}.parquet", [row(0, 0, host="host-a", mesh="host-a/0-3")], footer)
    write_manifest(tmp_path, images=2)
    summary = write_reports(str(tmp_path))
    assert summary.clocks_set == hosts
    assert (summary.system_fps is None) == bool(hosts)
    assert ("clock      was set during the run on host-a" in summary_table(summary)) == bool(hosts)
