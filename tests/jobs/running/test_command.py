"""How commands end: one line and an exit code, whatever happened."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.running.command import FAILED, USER_ERROR, JobFailed, run
from tests.commands import ROOT
from vit_actor.errors import UserError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a mistake"), USER_ERROR, "error: a mistake"),
        (UserError("forged\nerror: \x1b[2Jgone"), USER_ERROR, "error: forged\\nerror: \\x1b[2Jgone"),
        (JobFailed("it broke at https://u:p@host/x"), FAILED, "error: it broke at https://host/x"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_foreseen_is_one_line(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device; free some space"),
        (OSError(errno.EROFS, "Read-only file system", "/tmp/x"), "/tmp/x: Read-only file system; mount it for writing"),
        (OSError(errno.EMFILE, "Too many open files"), "raise `ulimit -n`"),
        (RuntimeError("can't start new thread"), "raise `ulimit -u`"),
        (MemoryError(), "no memory is left"),
    ],
    ids=repr,
)
def test_what_the_machine_refuses_is_no_fault_of_the_program(
    capsys: pytest.CaptureFixture[str], error: Exception, told: str
) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == FAILED
    line = capsys.readouterr().err
    assert told in line
    assert "fault of the program" not in line


def test_a_file_in_the_place_of_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "ray.py").touch()
    sample = ("--data", "jobs/sample/images", "--model", "jobs/sample/model", "--out", str(tmp_path / "out"))
    line, environment = [sys.executable, "-m", "jobs.imagenet", *sample], {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == FAILED
    assert f"error: {tmp_path}/ray.py is in the place of the package ray; rename it" in done.stderr


def test_what_nobody_foresaw_is_one_line_that_says_where_its_traceback_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_Ab12Cd34\n")

    def main() -> int:
        return dict[str, int]()["a\nkey" + f" {os.environ['HF_TOKEN'].encode()!r}"]

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == FAILED
    line = capsys.readouterr().err
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
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [found]
