"""How commands end: one line and an exit code, whatever happened."""

import errno
import os
import re
import sys
from pathlib import Path

import pytest

from jobs.running.command import FAILED, USER_ERROR, JobFailed
from tests.commands import run_line
from tests.jobs.conftest import ended
from vit_actor.errors import UserError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a mistake"), USER_ERROR, "error: a mistake"),
        (UserError("forged\nerror: \x1b[2Jgone"), USER_ERROR, "error: forged\\nerror: \\x1b[2Jgone"),
        (JobFailed("it broke at https://u:p@host/x"), FAILED, "error: it broke at https://host/x"),
        (KeyboardInterrupt(), 130, "interrupted"),
        # What the machine refuses is no fault of the program:
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), FAILED, "/tmp/x: No space left on device; free some space"),
        (OSError(errno.EROFS, "Read-only file system", "/tmp/x"), FAILED, "/tmp/x: Read-only file system; mount it for writing"),
        (OSError(errno.EMFILE, "Too many open files"), FAILED, "raise `ulimit -n`"),
        (RuntimeError("can't start new thread"), FAILED, "raise `ulimit -u`"),
        (MemoryError(), FAILED, "no memory is left"),
    ],
    ids=repr,
)
def test_what_is_foreseen_is_one_line(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str) -> None:
    def main() -> int:
        raise error

    found, told = ended(main, capsys)
    assert (found, told.count("\n")) == (code, 1)
    assert told == f"{line}\n" if line.startswith(("error", "interrupted")) else line in told
    assert "fault of the program" not in told


def test_a_file_in_the_place_of_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "ray.py").touch()
    sample = ("--data", "jobs/sample/images", "--model", "jobs/sample/model", "--out", str(tmp_path / "out"))
    line = (sys.executable, "-m", "jobs.imagenet", *sample)
    done = run_line(*line, environment={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.code, f"error: {tmp_path}/ray.py is in the place of the package ray; rename it" in done.stderr) == (FAILED, True)


def test_what_nobody_foresaw_says_where_its_traceback_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_Ab12Cd34\n")

    def main() -> int:
        return dict[str, int]()["a\nkey" + f" {os.environ['HF_TOKEN'].encode()!r}"]

    code, line = ended(main, capsys)
    assert code == FAILED
    assert re.match(r"error: KeyError: .*a\\nkey.*; this is a fault of the program", line)
    assert "hf_Ab12Cd34" not in line
    assert line.count("\n") == 1
    (kept,) = map(Path, re.findall(r"report it with (\S+)", line))
    assert "Traceback" in kept.read_text()
    assert "hf_Ab12Cd34" not in kept.read_text()
    kept.unlink()


@pytest.mark.parametrize(
    ("module", "word", "found"),
    [
        ("jobs.imagenet", "--max", "--max-errors"),
        ("jobs.scaling", "--device t", "t3000"),
        ("cluster.submit", "--ret", "--retries"),
    ],
)
def test_a_shell_completes_options_and_their_values(module: str, word: str, found: str) -> None:
    *before, last = f"python -m {module} {word}".split()
    shell = f"""
        PATH={Path(sys.executable).parent}:$PATH
        eval "$(activate-global-python-argcomplete --dest=-)"
        COMP_LINE="{" ".join([*before, last])}" COMP_WORDS=({" ".join([*before, last])}) COMP_CWORD={len(before)} COMP_TYPE=9
        COMP_POINT=${{#COMP_LINE}}
        _python_argcomplete_global python "{last}" "{before[-1]}"
        echo "${{COMPREPLY[@]}}"
    """
    assert run_line("bash", "-c", shell).stdout.split() == [found]
