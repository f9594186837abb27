"""Runs under random faults, one after the other: what became of the rows of each, and what all add up to."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow.dataset as ds
from pyarrow.fs import FileSystem, FileType

Rows = Counter[tuple[Any, ...]]  # (image id, label, prediction, error) of each row


def rows_in(out: str, filesystem: FileSystem) -> Rows:
    """The rows that any reader of an output's predictions finds, each as often as it is there."""
    if filesystem.get_file_info(f"{out}/predictions").type != FileType.Directory:
        return Counter()
    table = ds.dataset(f"{out}/predictions", format="parquet", filesystem=filesystem)
    columns = table.to_table(columns=["image_id", "label", "prediction", "error"]).to_pydict()
    return Counter(zip(*columns.values(), strict=True))


@dataclass
class Run:
    """One run to its end, resumed if need be. fired: faults by kind. problems: (what is wrong, what was told of it)."""

    about: str
    fired: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str]] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    wrong: int = 0

    def compare(self, found: Rows, expected: Rows) -> None:
        """With an undisturbed run's rows."""
        ids = Counter(row[0] for row in found.elements())
        doubled = {image for image, count in ids.items() if count > 1}
        self.lost, self.doubled = len({row[0] for row in expected} - ids.keys()), len(doubled)
        self.wrong = len({row[0] for row in found - expected} - doubled)
        if self.lost or self.doubled or self.wrong:
            what = f"{self.lost} rows lost, {self.doubled} doubled, {self.wrong} wrong"
            self.problems.append((what, "\n".join(map(str, list(found - expected)[:3]))))


def campaign(run: Callable[[int], Run], minutes: float, *, faults: int | None = None, only: int | None = None) -> bool:
    """Runs for so many minutes, or until so many faults fired; `only` that one. Prints a line a run; whether all were right."""
    end, done = time.monotonic() + 60 * minutes, list[Run]()
    while True:
        number, began = len(done) + 1 if only is None else only, time.monotonic()
        one = run(number)
        done.append(one)
        fired = ", ".join(f"{kind} {count}" for kind, count in sorted(one.fired.items())) or "no faults"
        verdict = "; ".join(what for what, _ in one.problems) or "right"
        print(f"run {number}: {one.about}; {fired}; {time.monotonic() - began:.1f} s; {verdict}", flush=True)
        for _, told in one.problems:
            print("  " + told.strip().replace("\n", "\n  "), flush=True)
        count = sum(each.fired.total() for each in done)
        if only is not None or time.monotonic() > end or (faults and count >= faults):
            break
    rows = ", ".join(f"{sum(getattr(each, what) for each in done)} {what}" for what in ("lost", "doubled", "wrong"))
    bad = [number for number, each in enumerate(done, 1) if each.problems]
    print(f"{count:,} faults in {len(done)} runs; rows: {rows}; runs with a problem: {bad or 'none'}")
    return not bad
