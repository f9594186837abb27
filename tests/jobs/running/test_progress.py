"""Progress says how far, how fast, how long still: in a log as plain lines, on a terminal in place, after a resume in all."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.running import progress
from jobs.running.progress import Pace, Progress
from tests.commands import ROOT
from tests.conftest import RayCluster
from tests.faults.running import command, write_shards

CONTROL = re.compile(r"[^\n\x20-\x7e]")


@pytest.mark.parametrize(
    ("total", "before", "added", "line"),
    [
        (50_000, 0, [], "0 of 50,000 images"),
        (50_000, 0, [(n, 1000, n % 2) for n in range(11)],
         "11,000 of 50,000 images, 39 s left, 1,000 images/s (1,000 on average), 5 errors"),
        (20_000, 0, [(n, 100 if n <= 60 else 200, 0) for n in range(101)],
         "14,100 of 20,000 images, 30 s left, 200 images/s (140 on average)"),
        (None, 0, [(0, 500, 0), (1, 500, 0)], "1,000 images, 500 images/s (500 on average)"),
        (10_000, 8_000, [(0, 500, 0), (1, 500, 0)],
         "9,000 of 10,000 images, 2 s left, 500 images/s (500 on average)"),
    ],
    ids=["nothing yet", "rates and what is left", "the recent rate forgets", "no total", "earlier attempts' are not in the rate"],
)  # fmt: skip
def test_a_line_says_how_much_and_how_fast(total: int | None, before: int, added: list[tuple[int, int, int]], line: str) -> None:
    pace = Pace(total=total, before=before)
    for second, images, errors in added:
        pace.add(images, errors, float(second))
    assert pace.line(float(added[-1][0]) if added else 5.0) == line


def test_images_count_from_the_first_batch_on_and_what_is_waited_for_is_said() -> None:
    pace = Pace(total=1_000)
    pace.know(640, 64, 1.0)
    pace.know(640, 128, 2.0)
    assert pace.line(2.0) == "128 of 1,000 images, 14 s left, 64 images/s (64 on average), 640 decoded, 0 written"
    pace.add(512, 1, 3.0)  # some of which could not be decoded
    assert pace.line(3.0).startswith("512 of 1,000 images")
    assert pace.line(3.0).endswith("1 error, 640 decoded")


@pytest.mark.parametrize(
    ("found", "waits"),
    [
        ({"open": 0, "meshes": 4}, "opening 4 of 4 meshes since 0 s"),
        ({"open": 3, "meshes": 4}, "opening 1 of 4 meshes"),
        ({"waiting": 2}, "waits for storage"),
        ({"decoded": 0}, "waits for decoding"),
        ({"decoded": 64}, None),
    ],
)
def test_a_run_that_does_not_go_on_says_what_it_waits_for(
    found: dict[str, int], waits: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(progress.EVERY, "log", 0.02)
    known = {"decoded": 0, "classified": 0, "open": 4, "meshes": 4, "waiting": 0} | found
    asked = threading.Semaphore(0)

    def account() -> dict[str, Any]:
        asked.release()
        return {"events": [], "pace": known}

    with Progress(100, account):
        for _ in range(3):
            assert asked.acquire(timeout=60)
    first = capfd.readouterr().err.splitlines()[0]
    assert first.endswith(waits) if waits else "wait" not in first


def test_a_log_gets_plain_lines_and_each_trouble_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
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
        shown.add({"chunk": "a", "images": 40, "errors": 2})
        events.append({"where": "loudbox-1/0-3", "what": "the actor on this mesh was replaced"})
        three_more()
    told = capfd.readouterr().err
    assert not CONTROL.search(told)
    lines = told.splitlines()
    assert lines[0].startswith("0 of 100 images") or lines[0].startswith("10 of 100 images")
    assert "% full: Ray ends tasks above 0%" in lines[0]
    assert any(line.startswith("50 of 100 images") and ", 2 errors" in line for line in lines)
    assert lines.count("loudbox-1/0-3: the actor on this mesh was replaced") == 1


def test_on_a_terminal_of_unknown_size_one_line_is_rewritten(ray_cluster: RayCluster, tmp_path: Path) -> None:
    data, out = write_shards(tmp_path / "data", shards=4), tmp_path / "out"
    line = command(data, out, "compute=1s", "--address", ray_cluster.address, "--meshes=1")
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (0, 0))
    given: dict[str, Any] = {"cwd": ROOT, "env": ray_cluster.environment, "stdout": subprocess.DEVNULL, "stderr": terminal}
    job = subprocess.Popen([sys.executable, *line], **given)
    os.close(terminal)
    read: list[bytes] = []
    with open(master, "rb", buffering=0) as screen, suppress(OSError):  # which is how the other end's closing reads
        while some := screen.read(1 << 16):
            read.append(some)
    shown = b"".join(read).decode()
    assert job.wait(timeout=60) == 0, shown
    lines = [text for text in shown.split("\r") if " images" in text]
    assert any("25% " in text and "64 of 256 images" in text for text in lines), shown
    assert "\n" not in "".join(lines[:-1]), "the line was not rewritten in place"
