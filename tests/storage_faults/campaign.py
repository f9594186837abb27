"""Whole jobs under random faults of storage, then healed and resumed: every row must be an undisturbed run's.

Data sets in every layout, on a disk or in a bucket; faults of reading, writing, listing, locking, renaming and deleting, in the
driver, in tasks and in actors. Run N of a seed is the same each time, but for what happens at the same time in other processes.
"""

from __future__ import annotations

import errno
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.commands import Finished
from tests.storage_faults import preload, proxy
from tests.storage_faults.faulty import FaultyStorage, Rows, faulty_storage
from tests.storage_faults.layouts import LAYOUTS
from tests.storage_faults.preload import environment
from tests.storage_faults.proxy import Cut, Delay, Truncate, Zeros

FINISHED = (0, 3)
"""Exit codes of a run that calls itself finished."""

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
_FAILING = (proxy.SLOW_DOWN, proxy.INTERNAL, Cut(), Cut(reset=True), Delay(0.3))
_REFUSED = (proxy.EXPIRED, proxy.DENIED)
_RemoteActs = list[tuple[str, tuple[proxy.Act, ...]]]
_REMOTE_READS: _RemoteActs = [
    ("GET", (*_FAILING, *_REFUSED, Cut(0.5), Cut(0.9, reset=True))),
    ("HEAD|LIST", (*_FAILING, *_REFUSED)),
]
_REMOTE_WRITES: _RemoteActs = [
    ("PUT", (*_FAILING, *_REFUSED, Cut(1.0))),
    ("DELETE|DELETE_MANY", (*_FAILING, *_REFUSED, Cut(1.0))),
]
_REMOTE: dict[str, _RemoteActs] = {
    "data": [*_REMOTE_READS, ("GET", (proxy.ARCHIVED, Truncate(0.5), Zeros()))],
    "shards": [*_REMOTE_READS, ("GET", (proxy.ARCHIVED, proxy.GONE, proxy.CHANGED, Truncate(0.5), Zeros()))],
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


def remote_rule(rng: random.Random, kind: str, key: str) -> proxy.Rule:
    operation, ways = rng.choice(_REMOTE[kind])
    act, often = rng.choice(ways), how_often(rng)
    rule = proxy.Rule(act, operation, f"{key}*", **(ONE_LIE if isinstance(act, Zeros) else often))
    if rng.random() < 0.5:
        rule.since = rng.uniform(0.3, 2.5)
    if rng.random() < 0.2:
        rule.until = rule.since + rng.uniform(0.5, 3)
    return rule


@dataclass
class Totals:
    """What all runs add up to. bad: numbers of those with a problem.

    unclear: failed runs that were not told in one line that names storage. endless: commands without an end.
    """

    runs: int = 0
    faults: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    unfinished: int = 0
    not_resumed: int = 0
    unclear: int = 0
    endless: int = 0
    bad: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        rows = f"{self.faults:,} faults in {self.runs} runs, {self.lost} rows lost, {self.doubled} doubled, {self.wrong} wrong"
        runs = f"{self.unfinished} runs that call themselves finished and are not"
        return (
            f"{rows}, {runs}; {self.not_resumed} not resumed, {self.unclear} not told in a clear line, {self.endless} without end"
        )


@dataclass
class Run:
    """One job with a fresh output. places: data, out, model and perhaps cache. exits, problems: what came of it."""

    number: int
    layout: str
    places: dict[str, str]
    max_errors: str
    fired: Counter[str] = field(default_factory=Counter)
    exits: list[int | str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        on = ", ".join(
            f"{kind} on {'s3' if '://' in place else 'disk'}" for kind, place in self.places.items() if kind != "model"
        )
        fired = ", ".join(f"{kind} {count}" for kind, count in sorted(self.fired.items())) or "none fired"
        return f"run {self.number}: {self.layout}, {on}; {fired}; exits {' '.join(map(str, self.exits))}"


@dataclass
class Campaign:
    """Runs of a seed, one after the other."""

    seed: int
    storage: FaultyStorage
    totals: Totals = field(default_factory=Totals)
    _rules: list[preload.Rule] = field(default_factory=list)
    _timers: list[threading.Timer] = field(default_factory=list)

    def run(self, number: int) -> Run:
        """One run, from its first faults to the comparison of its rows."""
        rng = random.Random(f"{self.seed} {number}")
        run = self._choose(rng, number)
        expected = self.storage.undisturbed(run.layout)
        self.totals.runs += 1
        for disturbed in (*([True] * rng.randint(1, 2)), False):
            if disturbed:
                self._disturb(rng, run)
            finished = self._attempt(run)
            self._heal(run)
            if finished and not (disturbed and self._only_refused(run, expected)):
                break
        if not finished:
            self.totals.not_resumed += 1
            run.problems.append(("not resumed", ""))
        self._compare(run, expected, finished=finished)
        self.totals.faults += run.fired.total()
        if run.problems:
            self.totals.bad.append(number)
        shutil.rmtree(self.storage.work / "runs", ignore_errors=True)
        return run

    def _choose(self, rng: random.Random, number: int) -> Run:
        layout = rng.choice(list(LAYOUTS))
        work = str(self.storage.work)
        root = "s3://bucket" if layout != "arrow" and rng.random() < 0.5 else work
        here = [f"{place}/runs/{number}" for place in (work, "s3://bucket")]
        places = {"data": f"{root}/data/{layout}", "out": f"{rng.choice(here)}/out", "model": f"{work}/model"}
        if rng.random() < 0.4:
            places["cache"] = f"{rng.choice(here)}/cache"
        return Run(number, layout, places, rng.choice(("1%", "10%")))

    def _disturb(self, rng: random.Random, run: Run) -> None:
        local: list[preload.Rule] = []
        weights = [1 if kind == "model" else 15 for kind in run.places]
        for kind in rng.choices(list(run.places), weights, k=rng.randint(1, 5)):
            place = run.places[kind]
            if kind == "data" and run.layout in SHARDED:
                kind = "shards"
            if "://" not in place:
                local.append(local_rule(rng, kind, place))
            elif rng.random() < 0.1:
                self.storage.proxy.rules.append(remote_rule(rng, "everything", ""))
            else:
                self.storage.proxy.rules.append(remote_rule(rng, kind, place.removeprefix("s3://bucket/")))
        self._rules = local
        begins = rng.uniform(0.3, 2.5) if rng.random() < 0.5 else 0.0
        self._later(begins, lambda: self.storage.local.set(*local))
        if rng.random() < 0.2:
            self._later(begins + rng.uniform(0.5, 3), self.storage.local.heal)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._timers.append(threading.Timer(seconds, act))
        self._timers[-1].start()

    def _heal(self, run: Run) -> None:
        for timer in self._timers:
            timer.cancel()
            timer.join()
        for rule, done in zip(self._rules, self.storage.local.done(), strict=False):  # none are set where a run ended before
            what = errno.errorcode[rule.error] if rule.act == "FAIL" else rule.act
            run.fired[f"{rule.operation} {what}"] += done
        for remote in self.storage.proxy.rules:
            run.fired[f"{remote.operation} {remote.act}"] += remote.done
        run.fired = +run.fired
        self.storage.proxy.rules, self._timers = [], []
        self.storage.local.set()

    def _attempt(self, run: Run) -> bool:
        """One command to its end; whether the run calls itself finished."""
        out, more = run.places["out"], ["--max-errors", run.max_errors]
        more += ["--cache", run.places["cache"]] if "cache" in run.places else []
        if run.exits:
            more.append("--resume" if self.storage.has(out, "manifest.json") else "--overwrite")
        try:
            done = self.storage.job(run.places["data"], out, *more)
        except AssertionError as error:
            self.totals.endless += 1
            run.exits.append("none")
            run.problems.append(("no end", str(error)[-600:]))
            return False
        run.exits.append(done.code)
        if done.code in FINISHED:
            return True
        if done.code not in (1, 2) or not is_clear(done, "bucket", str(self.storage.work)):
            self.totals.unclear += 1
            run.problems.append((f"exit {done.code} not told in a clear line", done.output[-800:]))
        return False

    def _only_refused(self, run: Run, expected: Rows) -> bool:
        """Whether all that is wrong is that some images, of many that were read, were refused: a resume reads them again."""
        wrong = self.storage.rows(run.places["out"]) - expected
        refused = any(what.endswith(("EACCES", "AccessDenied", "InvalidObjectState")) for what in run.fired)
        return refused and run.layout not in SHARDED and 0 < len(wrong) < len(expected) and all(row[-1] for row in wrong)

    def _compare(self, run: Run, expected: Rows, *, finished: bool) -> None:
        found, code = self.storage.rows(run.places["out"]), 0 if run.max_errors == "10%" else 3
        ids = Counter(row[0] for row in found.elements())
        doubled = {image for image, count in ids.items() if count > 1}
        lost = {row[0] for row in expected} - ids.keys()
        wrong = {row[0] for row in found - expected} - doubled
        self.totals.lost += len(lost)
        self.totals.doubled += len(doubled)
        self.totals.wrong += len(wrong)
        if lost or doubled or wrong:
            rows = [str(row) for row in found - expected][:3]
            run.problems.append((f"{len(lost)} rows lost, {len(doubled)} doubled, {len(wrong)} wrong", "\n".join(rows)))
        elif finished and (run.exits[-1] != code or not self.storage.has(run.places["out"], "report.html")):
            run.problems.append((f"exit code {run.exits[-1]} where {code} is right, or no page", ""))
        else:
            return
        self.totals.unfinished += finished


def is_clear(done: Finished, *names: str) -> bool:
    """Whether a failed job told why in one line, with one of these names in it, if there are any."""
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    ours = "Traceback" in done.output or "fault of the program" in done.output
    return len(told) == 1 and not ours and (not names or any(name in told[0] for name in names))


def run_campaign(seed: int, minutes: float, faults: int | None, only: int | None) -> Totals:
    """Runs for so many minutes, or until so many faults fired; `only` that one of them. Prints a line a run."""
    end = time.monotonic() + 60 * minutes
    with faulty_storage() as storage, environment(storage.local.environment):
        running = Campaign(seed, storage)
        number = only if only is not None else 1
        while True:
            began = time.monotonic()
            run = running.run(number)
            verdict = "; ".join(what for what, _ in run.problems) or "right"
            print(f"{run}; {time.monotonic() - began:.1f} s; {verdict}", flush=True)
            for _, told in run.problems:
                print("  " + told.strip().replace("\n", "\n  "), flush=True)
            if run.problems:
                print(f"  again: python -m tests.soak --storage --seed {seed} --only {number}", flush=True)
            number += 1
            if only is not None or time.monotonic() > end or (faults and running.totals.faults >= faults):
                return running.totals
