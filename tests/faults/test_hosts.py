"""A host that is lost takes nothing with it, and one that comes back is put to work."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.pipeline.commit import FOOTER
from tests.faults.running import Answers, Job, answers, command, committed, summary
from tests.rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(loudboxes=2, object_store_mb=300) as rig:
        yield rig


def hosts(out: Path) -> list[str]:
    """The hosts of the committed files."""
    footers = [pq.read_metadata(out / "predictions" / name).metadata[FOOTER] for name in committed(out)]
    return [json.loads(footer)["mesh"].partition("/")[0] for footer in footers]


def test_a_host_lost_and_back_again_costs_time_and_no_image(rig: Rig, data: Path, undisturbed: Answers, tmp_path: Path) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    job = Job(rig.start(["python", *command(data, tmp_path, "compute=2s")], **pipes), tmp_path)
    job.wait_until(lambda: set(hosts(tmp_path)) == {"loudbox-1", "loudbox-2"})

    rig.kill_host("loudbox-2")
    before = hosts(tmp_path).count("loudbox-2")
    rig.add_host("loudbox-2")
    job.wait_until(lambda: hosts(tmp_path).count("loudbox-2") > before)
    done = job.end()

    assert done.code == 0, done.output
    assert answers(tmp_path) == undisturbed
    assert summary(tmp_path)["lost_hosts"] == ["loudbox-2"]
    assert "hosts lost: 1" in done.stdout
