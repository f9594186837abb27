"""Whole jobs under random faults of storage, then healed and resumed: every row must be an undisturbed run's.

Data sets in every layout, on a disk or in a bucket; faults of reading, writing, listing, locking, renaming and deleting, in the
driver, in tasks and in actors. Run N of a seed is the same each time, but for what happens at the same time in other processes.
"""

from __future__ import annotations

import errno
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from pyarrow.fs import FileSystem, FileType, LocalFileSystem, S3FileSystem

from tests.commands import Finished, begin
from tests.conftest import RayCluster, ray_host
from tests.faults.running import MODEL
from tests.object_store.server import Store, s3_server
from tests.storage_faults import preload, proxy
from tests.storage_faults.layouts import LAYOUTS, digits, labels_of, upload, with_damage
from tests.storage_faults.preload import LocalFaults, environment, local_faults
from tests.storage_faults.proxy import Cut, Delay, Proxy, Truncate, Zeros, proxy_before

RETRY_SECONDS = 2
"""How long a job asks failing storage again."""
PATIENCE = 60.0
"""Seconds within which a run must end; it takes two, and a lease that a killed run left takes twenty."""
FINISHED = (0, 3)
"""Exit codes of a run that calls itself finished."""

_READING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES)
_WRITING = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ESTALE, errno.EACCES)
_LOCAL_READS = [
    *((operation, "FAIL", _READING) for operation in ("OPEN", "READ", "READ", "STAT", "LIST", "ENTRY", "MAP")),
    *(("READ", act, (0,)) for act in ("ZEROS", "END", "SHORT", "DELAY")),
]
_LOCAL_WRITES = [
    *((operation, "FAIL", _WRITING) for operation in ("CREATE", "WRITE", "SYNC", "RENAME", "UNLINK", "MKDIR")),
    ("LOCK", "FAIL", (errno.ENOLCK, errno.EIO)),
    ("WRITE", "SHORT", (0,)),
]
_LOCAL = {
    "data": _LOCAL_READS,
    "model": [(operation, "FAIL", _READING) for operation in ("OPEN", "READ", "MAP")],
    "cache": _LOCAL_READS + _LOCAL_WRITES,
    "out": [rule for rule in _LOCAL_READS if rule[1] != "END"] + _LOCAL_WRITES,
}
_FAILING = (proxy.SLOW_DOWN, proxy.INTERNAL, Cut(), Cut(reset=True), Delay(0.3))
_REFUSED = (proxy.EXPIRED, proxy.DENIED)
_REMOTE_READS: list[tuple[str, tuple[proxy.Act, ...]]] = [
    ("GET", (*_FAILING, *_REFUSED, Cut(0.5), Cut(0.9, reset=True))),
    ("HEAD|LIST", (*_FAILING, *_REFUSED)),
]
_REMOTE_WRITES: list[tuple[str, tuple[proxy.Act, ...]]] = [
    ("PUT", (*_FAILING, *_REFUSED, Cut(1.0))),
    ("DELETE|DELETE_MANY", (*_FAILING, *_REFUSED, Cut(1.0))),
]
_REMOTE = {
    "data": [*_REMOTE_READS, ("GET", (proxy.ARCHIVED, proxy.GONE, proxy.CHANGED, Truncate(0.5), Zeros()))],
    "cache": [*_REMOTE_READS, *_REMOTE_WRITES, ("GET", (Truncate(0.5), Zeros()))],
    "out": _REMOTE_READS + _REMOTE_WRITES,
    "everything": [("*", (*_FAILING, *_REFUSED))],
}


def how_often(rng: random.Random) -> dict[str, Any]:
    """Which of the matching requests: once, some, for good, each k-th, or by chance."""
    skip = int(rng.expovariate(0.1))
    seed = rng.randrange(2**31)
    ways: list[dict[str, Any]] = [
        {"skip": skip, "times": 1},
        {"skip": skip, "times": rng.randint(2, 8)},
        {"skip": skip},
        {"every": rng.randint(2, 12)},
        {"probability": rng.choice((0.02, 0.1, 0.4)), "seed": seed},
    ]
    return rng.choice(ways)


def local_rule(rng: random.Random, kind: str, path: str) -> preload.Rule:
    operation, act, errors = rng.choice(_LOCAL[kind])
    return preload.Rule(operation, f"{path}*", act, rng.choice(errors), milliseconds=100, **how_often(rng))


def remote_rule(rng: random.Random, kind: str, key: str) -> proxy.Rule:
    operation, ways = rng.choice(_REMOTE[kind])
    rule = proxy.Rule(rng.choice(ways), operation, f"{key}*", **how_often(rng))
    if rng.random() < 0.2:
        rule.since = rng.uniform(0, 2)
        rule.until = rule.since + rng.uniform(0.5, 3)
    return rule


@dataclass
class Totals:
    """What all runs add up to. unclear: failed runs that were not told in one line that names storage. endless: not ended."""

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


Rows = Counter[tuple[Any, ...]]
"""(image id, label, prediction, error) of each row."""


@dataclass
class Run:
    """One job with a fresh output: where things are, and what came of it."""

    number: int
    layout: str
    data: str
    labels: list[str]
    out: str
    cache: str | None
    model: str
    max_errors: str
    fired: Counter[str] = field(default_factory=Counter)
    exits: list[int | str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def places(self) -> dict[str, str]:
        found = {"data": self.data, "out": self.out, "model": self.model}
        return found | ({"cache": self.cache} if self.cache else {})

    def __str__(self) -> str:
        scheme = {kind: "s3" if "://" in place else "disk" for kind, place in self.places.items()}
        what = f"{self.layout} on {scheme['data']}, out on {scheme['out']}, cache {scheme.get('cache', 'none')}"
        fired = ", ".join(f"{kind} {count}" for kind, count in sorted(self.fired.items())) or "none fired"
        return f"run {self.number}: {what}; {fired}; exits {' '.join(map(str, self.exits))}"


@dataclass
class Campaign:
    seed: int
    work: Path
    cluster: RayCluster
    store: Store
    proxy: Proxy
    local: LocalFaults
    totals: Totals = field(default_factory=Totals)
    _rules: list[preload.Rule] = field(default_factory=list)
    _healing: threading.Timer | None = None
    _undisturbed: dict[str, Rows] = field(default_factory=dict)

    def run(self, number: int) -> Run:
        """One run, from its first faults to the comparison of its rows."""
        rng = random.Random(f"{self.seed} {number}")
        run = self._choose(rng, number)
        expected = self._expected(run.layout)
        self.totals.runs += 1
        for disturbed in (*([True] * rng.randint(1, 2)), False):
            if disturbed:
                self._disturb(rng, run)
            done = self._attempt(run)
            self._heal(run)
            if done and done.code in FINISHED:
                break
        else:
            self.totals.not_resumed += 1
            run.problems.append(("not resumed", done.stderr[-600:] if done else "no end"))
        self._compare(run, expected, finished=bool(done and done.code in FINISHED))
        self.totals.faults += run.fired.total()
        if run.problems:
            self.totals.bad.append(number)
        shutil.rmtree(self.work / "runs", ignore_errors=True)
        return run

    def _choose(self, rng: random.Random, number: int) -> Run:
        layout = rng.choice(list(LAYOUTS))
        remote = layout != "arrow" and rng.random() < 0.5
        root = "s3://bucket" if remote else str(self.work)
        data = f"{root}/data/{layout}"
        here = [f"{place}/runs/{number}" for place in (str(self.work), "s3://bucket")]
        cache = f"{rng.choice(here)}/cache" if rng.random() < 0.4 else None
        labels = ["--labels", f"{data}-labels.txt"] if layout == "flat" else []
        most = rng.choice(("1%", "10%"))
        return Run(number, layout, data, labels, f"{rng.choice(here)}/out", cache, str(self.work / "model"), most)

    def _disturb(self, rng: random.Random, run: Run) -> None:
        local: list[preload.Rule] = []
        weights = [1 if kind == "model" else 5 for kind in run.places]
        for kind in rng.choices(list(run.places), weights, k=rng.randint(1, 4)):
            place = run.places[kind]
            if "://" in place:
                kind = "everything" if rng.random() < 0.1 else kind
                key = "" if kind == "everything" else place.removeprefix("s3://bucket/")
                self.proxy.rules.append(remote_rule(rng, kind, key))
            else:
                local.append(local_rule(rng, kind, place))
        self.local.set(*local)
        self._rules = local
        if rng.random() < 0.2:
            self._healing = threading.Timer(rng.uniform(0.5, 4), self.local.heal)
            self._healing.start()

    def _heal(self, run: Run) -> None:
        if self._healing:
            self._healing.cancel()
            self._healing.join()
        for rule, done in zip(self._rules, self.local.done(), strict=True):
            what = errno.errorcode[rule.error] if rule.act == "FAIL" else rule.act
            run.fired[f"{rule.operation} {what}"] += done
        for remote in self.proxy.rules:
            run.fired[f"{remote.operation} {getattr(remote.act, 'code', remote.act)}"] += remote.done
        run.fired = +run.fired
        self.proxy.rules, self._rules = [], []
        self.local.set()

    def _attempt(self, run: Run) -> Finished | None:
        """One command to its end; None where it had none in time."""
        filesystem, path = self._open(run.out)
        line = ["--data", run.data, *run.labels, "--out", run.out, "--model", run.model, "--max-errors", run.max_errors]
        line += ["--cache", run.cache] if run.cache else []
        if run.exits:
            has_begun = filesystem.get_file_info(f"{path}/manifest.json").type == FileType.File
            line.append("--resume" if has_begun else "--overwrite")
        command = begin(
            "jobs.imagenet", *line, "--device", "cpu", "--address", self.cluster.address, environment=self.cluster.environment
        )
        try:
            done = command.end(PATIENCE)
        except AssertionError as error:
            self.totals.endless += 1
            run.exits.append("none")
            run.problems.append(("no end", str(error)[-600:]))
            return None
        run.exits.append(done.code)
        if done.code not in FINISHED:
            told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
            names = any(name in "".join(told) for name in ("s3://bucket", str(self.work)))
            if (
                done.code not in (1, 2)
                or len(told) != 1
                or "Traceback" in done.output
                or "fault of the program" in told[0]
                or not names
            ):
                self.totals.unclear += 1
                run.problems.append((f"exit {done.code} not told in a clear line", done.output[-800:]))
        return done

    def _compare(self, run: Run, expected: Rows, *, finished: bool) -> None:
        found = self._rows(run.out)
        ids, wanted = Counter(row[0] for row in found.elements()), {row[0] for row in expected}
        lost = len(wanted - ids.keys())
        doubled = sum(count > 1 for count in ids.values())
        wrong = len({row[0] for row in found - expected} - {image for image, count in ids.items() if count > 1})
        self.totals.lost, self.totals.doubled = self.totals.lost + lost, self.totals.doubled + doubled
        self.totals.wrong += wrong
        filesystem, path = self._open(run.out)
        page = filesystem.get_file_info(f"{path}/report.html").type == FileType.File
        code = 0 if run.max_errors == "10%" else 3
        if finished and (lost or doubled or wrong or not page or run.exits[-1] != code):
            self.totals.unfinished += 1
        if lost or doubled or wrong:
            rows = [str(row) for row in found - expected][:3]
            run.problems.append((f"{lost} rows lost, {doubled} doubled, {wrong} wrong", "\n".join(rows)))
        elif finished and (not page or run.exits[-1] != code):
            run.problems.append((f"page there: {page}; exit code {run.exits[-1]}, not {code}", ""))

    def _rows(self, out: str) -> Rows:
        filesystem, path = self._open(out)
        if filesystem.get_file_info(f"{path}/predictions").type != FileType.Directory:
            return Counter()
        table = ds.dataset(f"{path}/predictions", format="parquet", filesystem=filesystem)
        columns = table.to_table(columns=["image_id", "label", "prediction", "error"]).to_pydict()
        return Counter(zip(*columns.values(), strict=True))

    def _expected(self, layout: str) -> Rows:
        """What an undisturbed run over this layout answers."""
        if layout not in self._undisturbed:
            out = str(self.work / "expected" / layout)
            data = self.work / "data" / layout
            labels = ["--labels", str(labels_of(data))] if layout == "flat" else []
            run = Run(0, layout, str(data), labels, out, None, str(self.work / "model"), "10%")
            done = self._attempt(run)
            assert done is not None
            assert done.code == 0, done.output
            self._undisturbed[layout] = self._rows(out)
        return self._undisturbed[layout]

    def _open(self, uri: str) -> tuple[FileSystem, str]:
        if uri.startswith("s3://"):
            keys = {"access_key": "testing", "secret_key": "testing", "region": "us-east-1"}
            return S3FileSystem(endpoint_override=self.store.address, **keys), uri.removeprefix("s3://")
        return LocalFileSystem(), uri


@contextmanager
def campaign(seed: int) -> Iterator[Campaign]:
    """Data sets, a bucket and a cluster; to be entered before anything has been forked by tests.commands."""
    work = Path(tempfile.mkdtemp(prefix="campaign-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        store = stack.enter_context(s3_server())
        between = stack.enter_context(proxy_before(store.address))
        images = with_damage(digits())
        for name, write in LAYOUTS.items():
            write(work / "data" / name, images)
        upload(store, work / "data", "data")
        shutil.copytree(MODEL, work / "model")
        (work / "home").mkdir()
        local = local_faults(work)
        settings = store.environment | {"AWS_ENDPOINT_URL": between.address, "LOUDBOX_RETRY_SECONDS": str(RETRY_SECONDS)}
        stack.enter_context(environment(settings | local.environment))
        cluster = stack.enter_context(ray_host(work / "home", num_cpus=2))
        yield Campaign(seed, work, cluster, store, between, local)


def run_campaign(seed: int, minutes: float, faults: int | None, only: int | None, say: Callable[[str], None] = print) -> Totals:
    """Runs for so many minutes, or until so many faults fired; `only` that one of them."""
    end = time.monotonic() + 60 * minutes
    with campaign(seed) as running:
        number = only if only is not None else 1
        while True:
            began = time.monotonic()
            run = running.run(number)
            say(f"{run}; {time.monotonic() - began:.1f} s; {'; '.join(what for what, _ in run.problems) or 'right'}")
            for _, told in run.problems:
                say("  " + told.strip().replace("\n", "\n  "))
            if run.problems:
                say(f"  again: python -m tests.soak --storage --seed {seed} --only {number}")
            number += 1
            if only is not None or time.monotonic() > end or (faults and running.totals.faults >= faults):
                return running.totals
