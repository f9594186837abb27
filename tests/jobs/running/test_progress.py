"""Progress says how far, how fast, how long still: in a log as plain lines, on a terminal in place, after a resume in all."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.running import progress
from jobs.running.progress import Pace, Progress
from tests.commands import ROOT, Finished
from tests.conftest import RayCluster
from tests.faults.running import command, lose_chunks, run, write_shards

CONTROL = re.compile(r"[^\n\x20-\x7e]")


def committed(images: int, errors: int) -> dict[str, Any]:
    return {"chunk": "a", "images": images, "errors": errors}


def test_a_line_says_done_rates_errors_and_what_is_left() -> None:
    pace = Pace(total=50_000)
    assert pace.line(5.0) == "0 of 50,000 images, 0 errors"
    for second in range(11):
        pace.add(1000, second % 2, 20.0 + second)
    assert pace.line(30.0) == "11,000 of 50,000 images, 1,000 images/s (1,000 on average), 5 errors, 39 s left"


def test_the_recent_rate_forgets_and_the_time_left_follows_it() -> None:
    pace = Pace(total=20_000)
    for second in range(101):
        pace.add(100 if second <= 60 else 200, 0, float(second))
    assert pace.line(100.0) == "14,100 of 20,000 images, 200 images/s (140 on average), 0 errors, 30 s left"


def test_without_a_total_there_is_no_time_left() -> None:
    pace = Pace(total=None)
    pace.add(500, 0, 0.0)
    pace.add(500, 0, 1.0)
    assert pace.line(1.0) == "1,000 images, 500 images/s (500 on average), 0 errors"


def test_what_earlier_attempts_committed_is_done_but_not_in_the_rate() -> None:
    pace = Pace(total=10_000, before=8_000)
    pace.add(500, 0, 0.0)
    pace.add(500, 0, 1.0)
    assert pace.line(1.0) == "9,000 of 10,000 images, 500 images/s (500 on average), 0 errors, 2 s left"


def test_a_log_gets_plain_lines_while_a_chunk_is_waited_for_and_each_trouble_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(progress.EVERY, "log", 0.02)
    monkeypatch.setenv(progress.THRESHOLD, "0")
    events: list[dict[str, Any]] = []
    asked = threading.Semaphore(0)

    def account() -> dict[str, Any]:
        asked.release()
        return {"events": list(events), "committed_before": 10}

    def three_more() -> None:
        while asked.acquire(blocking=False):
            pass
        for _ in range(3):
            assert asked.acquire(timeout=60)

    with Progress(100, account) as shown:
        three_more()
        shown.add(committed(40, 2))
        events.append({"where": "loudbox-1/0-3", "what": "the actor on this mesh was replaced"})
        three_more()
    told = capfd.readouterr().err
    assert not CONTROL.search(told)
    lines = told.splitlines()
    assert lines[0].startswith("0 of 100 images, 0 errors") or lines[0].startswith("10 of 100 images, 0 errors")
    assert "% full: Ray ends tasks above 0%" in lines[0]
    assert any(line.startswith("50 of 100 images") and ", 2 errors" in line for line in lines)
    assert lines.count("loudbox-1/0-3: the actor on this mesh was replaced") == 1


def test_a_jobs_log_has_no_control_characters(sample_run: tuple[Path, Finished]) -> None:
    assert not CONTROL.search(sample_run[1].output)


def test_on_a_terminal_one_line_is_rewritten_and_a_resume_counts_what_was_there(ray_cluster: RayCluster, tmp_path: Path) -> None:
    data, out = write_shards(tmp_path / "data", shards=4), tmp_path / "out"
    first = run(ray_cluster, data, out, "compute=1ms", "--meshes=1")
    assert first.code == 0, first.output
    lose_chunks(out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["attempts"][-1]["state"] = "stopped"
    (out / "manifest.json").write_text(json.dumps(manifest))

    line = command(data, out, "compute=3s", "--address", ray_cluster.address, "--meshes=1", "--resume")
    shown = on_a_terminal([sys.executable, *line], ray_cluster.environment)

    lines = [text for text in shown.split("\r") if " images, " in text]
    assert any("75% " in text and "192 of 256 images, 0 errors" in text for text in lines), shown
    assert "\n" not in "".join(lines[:-1]), "the line was not rewritten in place"
    assert json.loads((out / "manifest.json").read_text())["attempts"][-1]["committed_before"] == 192


def on_a_terminal(line: list[str], environment: dict[str, str]) -> str:
    """What a command writes to stderr when that is a terminal; raises where it fails."""
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 120))
    job = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    read: list[bytes] = []
    with open(master, "rb", buffering=0) as screen:
        until_closed(lambda: screen.read(1 << 16), read)
    assert job.wait(timeout=60) == 0, b"".join(read)
    return b"".join(read).decode()


def until_closed(read: Callable[[], bytes], into: list[bytes]) -> None:
    """A terminal whose other end is closed reads as an error, not as an end."""
    limit = time.monotonic() + 200
    while time.monotonic() < limit:
        try:
            into.append(read())
        except OSError:
            return
    pytest.fail("the command did not end")
