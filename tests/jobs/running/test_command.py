"""How commands end: one line and an exit code, whatever happened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.running.command import FAILED, USER_ERROR, JobFailed, run
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


def test_what_nobody_foresaw_is_one_line_that_says_where_its_traceback_is(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        return dict[str, int]()["a\nkey"]

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == FAILED
    line = capsys.readouterr().err
    assert line.startswith("error: KeyError: 'a\\nkey'; this is a fault of the program")
    assert line.count("\n") == 1
    (kept,) = map(Path, re.findall(r"report it with (\S+)", line))
    assert "Traceback" in kept.read_text()
    kept.unlink()
