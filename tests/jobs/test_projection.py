"""The arithmetic of jobs/README.md on larger clusters, done again from the figures that the code has."""

from __future__ import annotations

import math
import re

import pytest

from jobs.pipeline.chunk import CHUNK_IMAGES
from jobs.pipeline.placement import MESH_CALLS
from jobs.pipeline.shares import SHARE_IMAGES_PER_SECOND
from tests.commands import ROOT
from vit_actor.device_time import T3000_IMAGES_PER_SECOND

SECTION = (ROOT / "jobs" / "README.md").read_text().partition("## Larger clusters")[2]
ROWS = [[cell.strip() for cell in line.strip("| ").split("|")] for line in SECTION.splitlines() if line.startswith("| ")]
IMAGES, SHARD, BATCH = 10**9, 10_000, 64
CHUNKS = math.ceil(SHARD / CHUNK_IMAGES)
BATCHES = SHARD // CHUNK_IMAGES * CHUNK_IMAGES // BATCH + math.ceil(SHARD % CHUNK_IMAGES / BATCH)
MESH = T3000_IMAGES_PER_SECOND * SHARD / (BATCHES * BATCH)
"""Images per second: a short batch takes as long as a full one."""


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_what_each_part_can_do_follows_from_its_figures() -> None:
    commits = MESH_CALLS - 2  # one chunk is computed, one is on its way in
    expected = {
        "device": MESH,
        "decode cores": 31 * 900,
        "network": 25e9 / 8 / (110_000 + 3 * 224**2),
        "driver": SHARD / CHUNKS / 0.01,
        "commits": commits * SHARD / CHUNKS / 0.05,
    }
    found = {row[0].partition(",")[0]: number(row[1]) for row in ROWS if row[0].partition(",")[0] in expected}
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(expected, key=lambda part: expected[part]) == "device"
    assert expected["driver"] == SHARE_IMAGES_PER_SECOND
    assert f"{BATCHES} batches of {BATCH}" in SECTION


def test_what_clusters_would_do_follows_from_that() -> None:
    rows = [row for row in ROWS if len(row) == 6 and row[0] != "LoudBoxes"]
    assert [row[0] for row in rows] == ["1", "4", "16", "64", "1,000"]
    for row in rows:
        rate = number(row[0]) * MESH
        one_stream = min(rate, SHARE_IMAGES_PER_SECOND)
        assert [number(row[1]), number(row[3])] == pytest.approx([one_stream, rate], abs=1)
        assert row[2] == ("device" if one_stream == rate else "driver")
        assert number(row[4]) == math.ceil(rate / SHARE_IMAGES_PER_SECOND)
        time, unit = row[5].split()
        assert float(time) == pytest.approx(IMAGES / rate / {"h": 3600, "min": 60}[unit], abs=0.05)


def test_helper_cores_and_files_follow_too() -> None:
    cores, rate = 16, 450
    own = (cores - 1) * rate
    assert f"a LoudBox decodes {own:,} images/s, and {math.ceil((MESH - own) / rate)} such cores" in re.sub(r"\s+", " ", SECTION)
    assert f"{IMAGES // SHARD * CHUNKS:,} files" in SECTION
