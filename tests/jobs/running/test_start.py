"""Commands whose terminal is closed, full, gone or of another encoding: the work is done and the exit code is its own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import ROOT, run_line
from tests.waiting import wait_until

TALKS = """
import sys, time
sys.argv[0] = "-m"
import jobs
for number in range(int(sys.argv[1])):
    print("x" * 100)
    print("y" * 100, file=sys.stderr, flush=True)
open(sys.argv[2], "w").write("done")
"""
STOPS = """
import sys, threading
sys.argv[0] = "-m"
import jobs
from jobs.running.stopping import draining
ended = threading.Event()
with draining(ended.set, last=lambda: None) as stopping:
    open(sys.argv[1], "w").close()
    ended.wait(60)
sys.exit(128 + stopping.signal)
"""

NOHUP = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]


GONE = ["2>&1 | head -1", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>&1"]


@pytest.mark.parametrize("streams", [*GONE, pytest.param("2>&1 | sleep 60", marks=pytest.mark.slow)], ids=str)
def test_work_goes_on_without_a_stream(tmp_path: Path, streams: str) -> None:
    command = f"{sys.executable} -c '{TALKS}' 1000 {tmp_path}/told {streams}; exit ${{PIPESTATUS[0]}}"
    reader = subprocess.Popen(["bash", "-c", command], cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until((tmp_path / "told").exists, 60)
        if "sleep" not in streams:
            assert reader.wait(60) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(reader.pid, signal.SIGKILL)


def test_what_a_reader_takes_slowly_all_arrives(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TALKS, "3000", str(tmp_path / "told")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as job:
        assert job.stdout
        time.sleep(1)
        assert len(job.stdout.read()) == 3000 * 101


@pytest.mark.parametrize(
    ("ignored", "how", "code"),
    [([], None, 129), ([], signal.SIGHUP, 129), ([], signal.SIGTERM, 143), (NOHUP, signal.SIGTERM, 143)],
    ids=["terminal closed", "HUP", "TERM", "TERM with HUP ignored"],
)
def test_a_run_drains_at_signals_and_without_its_terminal(
    tmp_path: Path, ignored: list[str], how: signal.Signals | None, code: int
) -> None:
    ours, theirs = os.openpty()
    command = [*ignored, sys.executable, "-c", STOPS, str(tmp_path / "ready")]
    default = ["env", "--default-signal=HUP"]  # these tests may run under nohup themselves
    job = subprocess.Popen(["setsid", "-c", *default, *command], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    wait_until((tmp_path / "ready").exists, 60)
    if ignored or not how:
        os.close(ours)
    if how:
        job.send_signal(how)
    assert job.wait(60) == code


@pytest.fixture(scope="session")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell under a locale of Latin-1."""
    folder = tmp_path_factory.mktemp("locales")
    run_line("localedef", "-i", "fr_FR", "-f", "ISO-8859-1", folder / "fr_FR.ISO-8859-1")
    return {"LOCPATH": str(folder), "LC_ALL": "fr_FR.ISO-8859-1"}


@pytest.mark.parametrize("locale", ["Latin-1", "C"])
def test_names_are_the_same_bytes_under_any_locale(tmp_path: Path, latin_1: dict[str, str], locale: str) -> None:
    given = latin_1 if locale == "Latin-1" else {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    (tmp_path / "café" / "predictions").mkdir(parents=True)
    done = run_line(sys.executable, "-m", "jobs.report", "--out", f"{tmp_path}/café", environment=os.environ | given)
    assert (done.code, "café" in done.stderr) == (2, True)
    assert os.listdir(os.fsencode(tmp_path)) == ["café".encode()]


def test_a_working_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    gone = f"cd {tmp_path}; mkdir gone; cd gone; rmdir ../gone; exec {sys.executable} -m jobs.imagenet --data /x --out /y"
    done = run_line("sh", "-c", gone, environment={"PYTHONPATH": str(ROOT)})
    assert (done.code, done.stderr.startswith("error: the working directory is gone")) == (2, True)
