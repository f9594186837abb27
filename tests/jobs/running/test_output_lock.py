"""One process at a time has an output on a disk; it is free again however that process ends, and a lost lock ends its holder."""

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from jobs.running import output_lock
from jobs.running.output_lock import Taken, check_held, hold_output
from jobs.storage.failure import StorageError
from tests.commands import ROOT

HOLD = """
import sys
from jobs.running.output_lock import hold_output
with hold_output(sys.argv[1]):
    print("held", flush=True)
    input()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[str], None]]:
    """Holds an output until the test ends."""
    with ExitStack() as held:
        yield lambda out: held.enter_context(hold_output(out))


@contextmanager
def held_elsewhere(out: Path) -> Iterator[subprocess.Popen[str]]:
    """By another process, until the block ends or that process does."""
    line, pipes = [sys.executable, "-c", HOLD, str(out)], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(line, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_an_output_that_another_process_has_is_refused_until_that_is_killed(tmp_path: Path, hold: Callable[[str], None]) -> None:
    with held_elsewhere(tmp_path / "out") as other:
        for address in (tmp_path / "out", f"file://{tmp_path}/out/", tmp_path / "x" / ".." / "out"):
            with pytest.raises(Taken, match="another job is writing there now; wait for it, or choose another --out"):
                hold(str(address))
        hold(str(tmp_path / "another"))
        other.kill()
        other.wait()
    with hold_output(str(tmp_path / "out")):
        with pytest.raises(Taken), hold_output(f"file://{tmp_path}/out"):  # in the same process too
            pass
        check_held(str(tmp_path / "out"))
    hold(str(tmp_path / "out"))


IN_TURN = """
import os, sys
from jobs.running.output_lock import Taken, hold_output
out, taken = sys.argv[1], 0
while taken < 100:
    try:
        with hold_output(out):
            os.close(os.open(out + ".alone", os.O_CREAT | os.O_EXCL))
            os.unlink(out + ".alone")
            taken += 1
    except Taken:
        pass
"""


def test_of_processes_that_take_and_release_an_output_in_turn_two_never_have_it(tmp_path: Path) -> None:
    others = [subprocess.Popen([sys.executable, "-c", IN_TURN, str(tmp_path / "out")], cwd=ROOT) for _ in range(3)]
    assert [other.wait(timeout=60) for other in others] == [0, 0, 0]


def test_a_lock_goes_at_the_end_and_with_it_an_output_that_was_made_for_it(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "new"):
        with hold_output(str(out)):
            assert (out / ".lock").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("replaced", [False, True])
def test_a_holder_whose_lock_file_goes_or_is_another_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: Callable[[str], None], replaced: bool
) -> None:
    ended: SimpleQueue[tuple[str, int]] = SimpleQueue()
    monkeypatch.setattr(output_lock, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(output_lock, "end_at_once", lambda *line_and_code: ended.put(line_and_code))
    hold(str(tmp_path))
    (tmp_path / ".lock").unlink()
    if replaced:
        (tmp_path / ".lock").touch()
    line, code = ended.get(timeout=30)
    assert (code, line.startswith("error: "), "the lock file is gone or another one" in line) == (1, True, True)
    with pytest.raises(Taken):
        check_held(str(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_a_disk_without_locks_gets_a_lease_and_one_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: Callable[[str], None], number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(output_lock.fcntl, "flock", flock)
    monkeypatch.setattr(output_lock, "RENEW_SECONDS", 0.5)
    if number == errno.EIO:
        with pytest.raises(StorageError, match=r"/\.lock: cannot lock: storage failed \(no\)"):
            hold(str(tmp_path))
        return
    lease = output_lock._Lease(str(tmp_path))
    with pytest.raises(Taken):
        hold(str(tmp_path))  # it waits for the first one's renewal
    lease.release()
    hold(str(tmp_path))
    assert (tmp_path / ".lease").exists()
