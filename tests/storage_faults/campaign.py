"""Whole jobs under random faults of storage, then healed and resumed: every row must be an undisturbed run's.

Data sets in every layout, on a disk or in a bucket; faults of reading, writing, listing, locking, renaming and deleting, in the
driver, in tasks and in actors. Run N of a seed is the same each time, but for what happens at the same time in other processes.
"""

import errno
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from tests.commands import Finished
from tests.faults.campaign import Rows, Run, campaign
from tests.object_store import server
from tests.object_store.server import Cut, Delay, Truncate, Zeros
from tests.storage_faults import preload
from tests.storage_faults.faulty import FaultyStorage, faulty_storage
from tests.storage_faults.layouts import LAYOUTS

FINISHED = (0, 3)  # Exit codes of a run that calls itself finished

SHARDED = ("tar", "tar.gz", "parquet", "arrow")
"""Layouts of shards that hold many images each: one that is gone or has changed ends the run, an image that is so is a row."""

_READING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES)
_WRITING = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ESTALE, errno.EACCES)
_LocalActs = list[tuple[str, str, tuple[int, ...]]]
_LOCAL_READS: _LocalActs = [
    *((operation, "FAIL", _READING) for operation in ("OPEN", "READ", "READ", "STAT", "LIST", "ENTRY", "MAP")),
    *(("READ", act, (0,)) for act in ("ZEROS", "END", "SHORT", "DELAY")),
]
_LOCAL_WRITES: _LocalActs = [
    *((operation, "FAIL", _WRITING) for operation in ("CREATE", "WRITE", "SYNC", "RENAME", "UNLINK", "MKDIR")),
    ("LOCK", "FAIL", (errno.ENOLCK, errno.EIO)),
    ("WRITE", "SHORT", (0,)),
]
_LOCAL: dict[str, _LocalActs] = {
    "data": _LOCAL_READS,
    "shards": _LOCAL_READS,
    "model": [(operation, "FAIL", _READING) for operation in ("OPEN", "READ", "MAP")],
    "cache": _LOCAL_READS + _LOCAL_WRITES,
    "out": [rule for rule in _LOCAL_READS if rule[1] != "END"] + _LOCAL_WRITES,
}
_FAILING = (server.SLOW_DOWN, server.INTERNAL, Cut(), Cut(reset=True), Delay(0.3))
_REFUSED = (server.EXPIRED, server.DENIED)
_RemoteActs = list[tuple[str, tuple[server.Act, ...]]]
_REMOTE_READS: _RemoteActs = [
    ("GET", (*_FAILING, *_REFUSED, Cut(0.5), Cut(0.9, reset=True))),
    ("HEAD|LIST", (*_FAILING, *_REFUSED)),
]
_REMOTE_WRITES: _RemoteActs = [
    ("PUT", (*_FAILING, *_REFUSED, Cut(1.0))),
    ("DELETE|DELETE_MANY", (*_FAILING, *_REFUSED, Cut(1.0))),
]
_REMOTE: dict[str, _RemoteActs] = {
    "data": [*_REMOTE_READS, ("GET", (server.ARCHIVED, Truncate(0.5), Zeros()))],
    "shards": [*_REMOTE_READS, ("GET", (server.ARCHIVED, server.GONE, server.CHANGED, Truncate(0.5), Zeros()))],
    "cache": [*_REMOTE_READS, *_REMOTE_WRITES, ("GET", (Truncate(0.5), Zeros()))],
    "out": _REMOTE_READS + _REMOTE_WRITES,
    "everything": [("*", (*_FAILING, *_REFUSED))],
}


ONE_LIE = {"skip": 3, "times": 1}
"""Zeros instead of data come once at a time: nobody can tell two reads that lie alike from what is there."""


def how_often(rng: random.Random) -> dict[str, Any]:
    """Which of the matching requests: once, some, for good, each k-th, or by chance."""
    skip = int(rng.expovariate(0.25))
    by_chance = {"probability": rng.choice((0.05, 0.2, 0.5)), "seed": rng.randrange(2**31)}
    some = {"skip": skip, "times": rng.randint(2, 8)}
    return rng.choice([{"skip": skip, "times": 1}, some, {"skip": skip}, {"every": rng.randint(2, 8)}, by_chance])


def local_rule(rng: random.Random, kind: str, path: str) -> preload.Rule:
    operation, act, errors = rng.choice(_LOCAL[kind])
    often = how_often(rng)
    return preload.Rule(
        operation, f"{path}*", act, rng.choice(errors), milliseconds=100, **(often if act != "ZEROS" else ONE_LIE)
    )


def remote_rule(rng: random.Random, kind: str, key: str) -> server.Rule:
    operation, ways = rng.choice(_REMOTE[kind])
    act, often = rng.choice(ways), how_often(rng)
    rule = server.Rule(act, operation, f"{key}*", **(ONE_LIE if isinstance(act, Zeros) else often))
    if rng.random() < 0.5:
        rule.since = rng.uniform(0.3, 2.5)
    if rng.random() < 0.2:
        rule.until = rule.since + rng.uniform(0.5, 3)
    return rule


@dataclass
class StorageRun(Run):
    """One job with a fresh output. places: data, out, model and perhaps cache. exits: its commands' codes."""

    layout: str = ""
    places: dict[str, str] = field(default_factory=dict)
    max_errors: str = ""
    exits: list[int | str] = field(default_factory=list)


@dataclass
class StorageCampaign:
    """Runs of a seed, one after the other."""

    seed: int
    storage: FaultyStorage
    _rules: list[preload.Rule] = field(default_factory=list)
    _timers: list[threading.Timer] = field(default_factory=list)

    def run(self, number: int) -> Run:
        """One run, from its first faults to the comparison of its rows."""
        rng = random.Random(f"{self.seed} {number}")
        run = self._choose(rng, number)
        expected = self.storage.undisturbed(run.layout)
        for disturbed in (*([True] * rng.randint(1, 2)), False):
            if disturbed:
                self._disturb(rng, run)
            finished = self._attempt(run)
            self._heal(run)
            if finished and not (disturbed and self._only_refused(run, expected)):
                break
        else:
            run.problems.append(("not resumed", ""))
        out, code = run.places["out"], 0 if run.max_errors == "10%" else 3
        run.compare(self.storage.rows(out), expected)
        if finished and not run.problems and (run.exits[-1] != code or not self.storage.has(out, "report.html")):
            run.problems.append((f"exit code {run.exits[-1]} where {code} is right, or no page", ""))
        run.about += f"; exits {' '.join(map(str, run.exits))}"
        if run.problems:
            run.problems.append(("again", f"python -m tests.soak --storage --seed {self.seed} --only {number}"))
        shutil.rmtree(self.storage.work / "runs", ignore_errors=True)
        return run

    def _choose(self, rng: random.Random, number: int) -> StorageRun:
        layout = rng.choice(list(LAYOUTS))
        work = str(self.storage.work)
        root = "s3://bucket" if layout != "arrow" and rng.random() < 0.5 else work
        here = [f"{place}/runs/{number}" for place in (work, "s3://bucket")]
        places = {"data": f"{root}/data/{layout}", "out": f"{rng.choice(here)}/out", "model": f"{work}/model"}
        if rng.random() < 0.4:
            places["cache"] = f"{rng.choice(here)}/cache"
        on = ", ".join(f"{kind} on {'s3' if '://' in place else 'disk'}" for kind, place in places.items() if kind != "model")
        return StorageRun(f"{layout}, {on}", layout=layout, places=places, max_errors=rng.choice(("1%", "10%")))

    def _disturb(self, rng: random.Random, run: StorageRun) -> None:
        local: list[preload.Rule] = []
        weights = [1 if kind == "model" else 15 for kind in run.places]
        for kind in rng.choices(list(run.places), weights, k=rng.randint(1, 5)):
            place = run.places[kind]
            if kind == "data" and run.layout in SHARDED:
                kind = "shards"
            if "://" not in place:
                local.append(local_rule(rng, kind, place))
            elif rng.random() < 0.1:
                self.storage.store.rules.append(remote_rule(rng, "everything", ""))
            else:
                self.storage.store.rules.append(remote_rule(rng, kind, place.removeprefix("s3://bucket/")))
        self._rules = local
        begins = rng.uniform(0.3, 2.5) if rng.random() < 0.5 else 0.0
        self._later(begins, lambda: self.storage.local.set(*local))
        if rng.random() < 0.2:
            self._later(begins + rng.uniform(0.5, 3), self.storage.local.heal)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._timers.append(threading.Timer(seconds, act))
        self._timers[-1].start()

    def _heal(self, run: StorageRun) -> None:
        for timer in self._timers:
            timer.cancel()
            timer.join()
        for rule, done in zip(self._rules, self.storage.local.done(), strict=False):  # none are set where a run ended before
            what = errno.errorcode[rule.error] if rule.act == "FAIL" else rule.act
            run.fired[f"{rule.operation} {what}"] += done
        for remote in self.storage.store.rules:
            run.fired[f"{remote.operation} {remote.act}"] += remote.done
        run.fired = +run.fired
        self.storage.store.rules, self._timers = [], []
        self.storage.local.set()

    def _attempt(self, run: StorageRun) -> bool:
        """One command to its end; whether the run calls itself finished."""
        out, more = run.places["out"], ["--max-errors", run.max_errors]
        more += ["--cache", run.places["cache"]] if "cache" in run.places else []
        if run.exits:
            more.append("--resume" if self.storage.has(out, "manifest.json") else "--overwrite")
        try:
            done = self.storage.job(run.places["data"], out, *more)
        except AssertionError as error:
            run.exits.append("none")
            run.problems.append(("no end", str(error)[-600:]))
            return False
        run.exits.append(done.code)
        if done.code not in (*FINISHED, 1, 2) or (
            done.code not in FINISHED and not is_clear(done, "bucket", str(self.storage.work))
        ):
            run.problems.append((f"exit {done.code} not told in a clear line", done.output[-800:]))
        return done.code in FINISHED

    def _only_refused(self, run: StorageRun, expected: Rows) -> bool:
        """Whether all that is wrong is that some images, of many that were read, were refused: a resume reads them again."""
        wrong = self.storage.rows(run.places["out"]) - expected
        refused = any(what.endswith(("EACCES", "AccessDenied", "InvalidObjectState")) for what in run.fired)
        return refused and run.layout not in SHARDED and 0 < len(wrong) < len(expected) and all(row[-1] for row in wrong)


def is_clear(done: Finished, *names: str) -> bool:
    """Whether a failed job told why in one line, with one of these names in it, if there are any."""
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    ours = "Traceback" in done.output or "fault of the program" in done.output
    return len(told) == 1 and not ours and (not names or any(name in told[0] for name in names))


def storage_campaign(seed: int, minutes: float, faults: int | None, only: int | None) -> bool:
    """Whether every run was right."""
    with faulty_storage() as storage, patch.dict("os.environ", storage.local.environment):
        return campaign(StorageCampaign(seed, storage).run, minutes, faults=faults, only=only)
