"""Local files that fail by rules: a library for LD_PRELOAD, built from preload.c, and the rules that all its processes share."""

import ctypes
import errno
import mmap
import subprocess
from dataclasses import dataclass
from pathlib import Path

OPERATIONS = ("OPEN", "CREATE", "READ", "MAP", "WRITE", "SYNC", "RENAME", "UNLINK", "LOCK", "STAT", "LIST", "ENTRY", "MKDIR")
"""OPEN is to read only. LIST opens a directory, ENTRY asks for its next name."""
ACTS = ("FAIL", "SHORT", "END", "ZEROS", "DELAY")
"""SHORT: half of what was asked, or of a size that is told. END: as if the file or directory ended here."""

MOST_RULES = 32
_NO_LIMIT = 2**32 - 1


@dataclass(frozen=True)
class Rule:
    """What one act does to operations (names of OPERATIONS, with | between them) on files whose path matches, in all processes.

    path: a pattern as of a shell, in which * is any text. error: an errno, of FAIL. milliseconds: of DELAY.
    The first `skip` calls that match are spared, then each `every`-th is acted on with that probability, `times` times at most.
    """

    operation: str
    path: str
    act: str = "FAIL"
    error: int = errno.EIO
    skip: int = 0
    times: int = _NO_LIMIT
    every: int = 1
    probability: float = 1.0
    seed: int = 0
    milliseconds: int = 0


class _Rule(ctypes.Structure):
    _fields_ = (
        ("path", ctypes.c_char * 512),
        ("probability", ctypes.c_double),
        *((name, ctypes.c_uint32) for name in ("operations", "act", "error", "milliseconds", "skip", "times", "every", "seed")),
        ("seen", ctypes.c_uint32),
        ("done", ctypes.c_uint32),
    )


class _Rules(ctypes.Structure):
    _fields_ = (("count", ctypes.c_uint32), ("unused", ctypes.c_uint32), ("rule", _Rule * MOST_RULES))


class LocalFaults:
    """environment: what a process needs besides its own, and gives to those that it starts, to be under the rules."""

    def __init__(self, library: Path, file: Path) -> None:
        file.write_bytes(bytes(ctypes.sizeof(_Rules)))
        self.environment = {"LD_PRELOAD": str(library), "STORAGE_FAULTS": str(file), "RAY_LD_PRELOAD_ON_WORKERS": "1"}
        with file.open("r+b") as opened:
            self._set, self._rules = 0, _Rules.from_buffer(mmap.mmap(opened.fileno(), 0))

    def set(self, *rules: Rule) -> None:
        """These and no others from now on, in processes that run too."""
        assert len(rules) <= MOST_RULES
        self._rules.count = 0
        for shared, rule in zip(self._rules.rule, rules, strict=False):
            shared.path = rule.path.encode()
            shared.operations = sum(1 << OPERATIONS.index(name) for name in rule.operation.split("|"))
            shared.act = ACTS.index(rule.act)
            for name in ("probability", "error", "milliseconds", "skip", "times", "every", "seed"):
                setattr(shared, name, getattr(rule, name))
            shared.seen = shared.done = 0
        self._rules.count = self._set = len(rules)

    def heal(self) -> None:
        """No rule acts any more; `done` stays."""
        self._rules.count = 0

    def done(self) -> list[int]:
        """For each rule that was last set, how many calls it acted on."""
        return [rule.done for rule in self._rules.rule[: self._set]]


def local_faults(directory: Path) -> LocalFaults:
    """The library built, and without rules yet. directory: for its two files."""
    library = directory / "preload.so"
    source = Path(__file__).with_name("preload.c")
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(source), "-ldl"], check=True, timeout=60)
    return LocalFaults(library, directory / "rules")
