"""The preloaded library: each act fires where its rule says, in every process, is counted, and ends when storage is healed."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.storage_faults.preload import LocalFaults, Rule, local_faults


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> LocalFaults:
    return local_faults(tmp_path_factory.mktemp("preload"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of 10,000 bytes, in a directory of its own with another file."""
    (tmp_path / "data").mkdir()
    for name in ("other", "file"):
        (tmp_path / "data" / name).write_bytes(b"x" * 10_000)
    return tmp_path / "data" / "file"


def start(faults: LocalFaults, program: str, file: Path) -> subprocess.Popen[str]:
    """Python with a program of which an error's name is printed."""
    whole = f"import sys, os, errno\ntry:\n    {program}\nexcept OSError as e:\n    print(errno.errorcode.get(e.errno, e))"
    line, environment = [sys.executable, "-c", whole, str(file)], os.environ | faults.environment
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)


def told(faults: LocalFaults, program: str, file: Path) -> str:
    """What such a program prints, without the line's end."""
    return start(faults, program, file).communicate(timeout=60)[0].strip()


READ = "data = open(sys.argv[1], 'rb', 0).read(); print(len(data), set(data))"
READ_TWICE = "file = os.open(sys.argv[1], 0); print(len(os.read(file, 1000)), len(os.read(file, 1000)))"
READV = "a = bytearray(9); b = bytearray(9); print(os.readv(os.open(sys.argv[1], 0), [a, b]), set(a + b))"
MAP = "import mmap; print(set(mmap.mmap(os.open(sys.argv[1], 0), 0, prot=1)[:]))"
WRITE = "file = os.open(sys.argv[1], os.O_RDWR); print(os.write(file, b'y' * 100)); os.fsync(file); os.fdatasync(file)"
ARROW_LIST = "from pyarrow.fs import *; print(len(LocalFileSystem().get_file_info(FileSelector(os.path.dirname(sys.argv[1])))))"
TABLE = [
    (Rule("OPEN", "*/file", error=116), READ, "ESTALE"),
    (Rule("READ", "*/file"), READ, "EIO"),
    (Rule("READ", "*/file", "ZEROS"), READ, "10000 {0}"),
    (Rule("READ", "*/file", "SHORT", times=1), READ_TWICE, "500 1000"),
    (Rule("READ", "*/file", "END", every=2), READ_TWICE, "1000 0"),
    (Rule("READ", "*/file", "SHORT"), READV, "9 {120, 0}"),
    (Rule("MAP", "*/file", "ZEROS"), MAP, "{0}"),
    (Rule("WRITE", "*/file", error=28), WRITE, "ENOSPC"),
    (Rule("SYNC", "*/file", error=122), WRITE, "100\nEDQUOT"),
    (Rule("RENAME", "*/new", error=13), "os.replace(sys.argv[1], os.path.dirname(sys.argv[1]) + '/new')", "EACCES"),
    (Rule("UNLINK", "*/file"), "import shutil; shutil.rmtree(os.path.dirname(sys.argv[1]))", "EIO"),
    (Rule("LOCK", "*/file", error=37), "import fcntl; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX)", "ENOLCK"),
    (Rule("LIST", "*/data"), "os.scandir(os.open(os.path.dirname(sys.argv[1]), 0))", "EIO"),
    (Rule("ENTRY", "*/data", skip=1), "os.listdir(os.path.dirname(sys.argv[1]))", "EIO"),
    (Rule("LIST", "*/data"), ARROW_LIST, "EIO"),
]


@pytest.mark.parametrize(
    ("rule", "program", "expected"), TABLE, ids=lambda value: value.operation if isinstance(value, Rule) else ""
)
def test_an_act_fires_where_its_rule_says(faults: LocalFaults, file: Path, rule: Rule, program: str, expected: str) -> None:
    faults.set(replace(rule, path="*/else"))
    assert told(faults, READ, file) == "10000 {120}"
    faults.set(rule)
    assert told(faults, program, file) == expected
    assert faults.done()[0] > 0
    faults.heal()
    if file.exists():
        assert told(faults, READ, file).startswith("10000")


def test_rules_count_over_all_processes(faults: LocalFaults, file: Path) -> None:
    faults.set(Rule("READ", "*/file", "END", skip=100, times=50, probability=0.5))
    count = "file = os.open(sys.argv[1], 0); print(sum(not os.pread(file, 1, 0) for _ in range(100)))"
    running = [start(faults, count, file) for _ in range(4)]
    fired = [int(each.communicate(timeout=60)[0]) for each in running]
    assert sum(fired) == faults.done()[0] == 50
