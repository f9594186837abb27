"""Ctrl-C and SIGTERM at random moments of a whole command: each must end it with the signal's exit code and leave nothing.

python -m tests.benchmarks.interrupts [trials] [seconds] [seed]     at a moment up to so many seconds after the start
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.commands import ROOT

JOB = ["jobs.imagenet", "--data", "jobs/sample/images", "--model", "jobs/sample/model", "--overwrite", "--out"]
END_SECONDS = 60.0
LEFT_SECONDS = 20.0
"""What Ray's processes may take to end after the command."""


def trial(moment: float, number: signal.Signals, out: str) -> str:
    """What is wrong with how a command ends that gets a signal at this moment; empty where nothing is."""
    before = sessions()
    mark = f"INTERRUPTED={random.getrandbits(64):x}"
    name, _, value = mark.partition("=")
    command = subprocess.Popen(
        [sys.executable, "-m", *JOB, out],
        cwd=ROOT,
        env={**os.environ, name: value},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(moment)
    finished = command.poll() is not None
    if not finished:
        os.killpg(command.pid, number)
    try:
        _, said = command.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        command.kill()
        return f"no end within {END_SECONDS:g} s"
    wrong = []
    # The interpreter itself ends by the signal until it has loaded the first line of the project; a run may just have finished.
    if not finished and command.returncode not in (128 + number, -number, 0):
        wrong.append(f"exit code {command.returncode}")
    if "Traceback" in said and command.returncode != -number:
        wrong.append(f"a traceback: {said.strip().splitlines()[-1]}")
    limit = time.monotonic() + LEFT_SECONDS
    while (left := [*(sessions() - before), *marked(mark)]) and time.monotonic() < limit:
        time.sleep(0.05)
    return "; ".join([*wrong, *(f"left: {each}" for each in left)])


def sessions() -> set[Path]:
    """Directories of Ray sessions on this machine; another job that starts one meanwhile is taken for the trial's."""
    return {path for path in Path("/tmp").glob("loudbox-*") if path.is_dir()}


def marked(mark: str) -> list[str]:
    """Processes with this variable in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " ")[:80])
        except OSError:  # it has ended
            continue
    return found


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 2.5
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1000)
    draw, wrong = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as out:
        for _ in range(trials):
            moment, number = draw.uniform(0, seconds), draw.choice([signal.SIGINT, signal.SIGTERM])
            if found := trial(moment, number, out):
                wrong += 1
                print(f"{number.name} after {moment:.3f} s: {found}", flush=True)
    print(f"{wrong} of {trials} wrong, signals within {seconds:g} s of the start, seed {seed}")


if __name__ == "__main__":
    main()
