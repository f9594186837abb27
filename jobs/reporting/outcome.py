"""How a run came out: its summary, its rows and its page, and whether it is as good as it was asked to be."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.reporting.schema import Summary
from jobs.running.command import TOO_INACCURATE, TOO_MANY_ERRORS
from jobs.running.manifest import load_manifest
from jobs.settings import least_accuracy
from jobs.storage.address import below, shown
from jobs.storage.failure import storage_errors
from jobs.storage.files import open_storage, read_whole
from vit_actor.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset


class Page(str):
    """The path or URI of a report, which a notebook shows as the page that is there."""

    def __repr__(self) -> str:
        return repr(shown(self))

    def _repr_html_(self) -> str:
        filesystem, path = open_storage(self)
        with storage_errors(self):
            page = read_whole(filesystem, path).to_pybytes().decode()
        return f'<iframe srcdoc="{html.escape(page)}" style="width: 100%; height: 40em; border: 0"></iframe>'


@dataclass(frozen=True)
class Result:
    """A finished run. exit_code: what the command ends with: 0, or 3 or 4 where it is not as good as it was asked to be.

    verdict: why, a line for each thing that was asked and not met.
    """

    out: str = field(repr=False)
    summary: Summary
    exit_code: int
    verdict: tuple[str, ...]

    @property
    def report(self) -> Page:
        return Page(below(self.out, "report.html"))

    def predictions(self) -> Dataset:
        """The rows, one for each image, as a pyarrow dataset (`jobs.pipeline.schema.PREDICTIONS`); read when it is asked for."""
        from pyarrow.dataset import dataset

        filesystem, path = open_storage(below(self.out, "predictions"))
        return dataset(path, filesystem=filesystem, format="parquet")


class Gate(NamedTuple):
    """An accuracy that a run must have. top: 1 or 5. asked: the option, as it was given. least: from 0 to 1, exactly."""

    top: int
    asked: str
    least: Fraction


def gates(min_top1: str | None, min_top5: str | None) -> list[Gate]:
    """Raises UserError where the run that is to be compared with is not finished, or has no labels."""
    found = []
    for top, text in ((1, min_top1), (5, min_top5)):
        option = f"--min-top{top}"
        share, run = least_accuracy(option, text)
        if text and run is not None:
            manifest = load_manifest(run)
            if manifest is None or manifest.job != "imagenet" or not manifest.finished:
                raise UserError(f"{option}: {shown(run)} holds no finished run of jobs.imagenet; give such a run's --out")
            if (reference := accuracy(read_summary(run), top)) is None:
                raise UserError(f"{option}: the run in {shown(run)} has no labels, so no accuracy to compare with; give another")
            share *= reference
            text = f"{shown(text)} ({float(share):.2%})"
        found += [Gate(top, f"{option} {text}", share)] if text else []
    return found


def accuracy(summary: Summary, top: int) -> Fraction | None:
    """Of all labelled images; None without any."""
    correct = summary.correct if top == 1 else summary.top5_correct
    return Fraction(correct, summary.labelled) if summary.labelled else None


def judged(summary: Summary, asked: list[Gate], max_errors: int | float = 1.0) -> tuple[int, tuple[str, ...]]:
    """The exit code of a finished run, and a line for each thing that is not as it was asked for.

    max_errors: how many images, or what share of them, may have an error.
    """
    told = []
    for gate in asked:
        found = accuracy(summary, gate.top)
        if found is None:
            told.append(f"no image has a label, so {gate.asked} cannot be met; give --labels")
        elif found < gate.least:
            low, high = getattr(summary, f"top{gate.top}_low"), getattr(summary, f"top{gate.top}_high")
            points = f"{100 * float(gate.least - found):.3f} points below {gate.asked}"
            told.append(f"top-{gate.top} is {float(found):.2%} (95% interval {low:.2%} to {high:.2%}), {points}")
    allowed = allowed_errors(max_errors, summary.images)
    if summary.errors > allowed:
        too_many = f"{summary.errors} of {summary.images} images could not be read; --max-errors allows {allowed}"
        return TOO_MANY_ERRORS, (too_many, *told)
    return TOO_INACCURATE if told else 0, tuple(told)


def allowed_errors(max_errors: int | float, images: int) -> int:
    """max_errors: of Settings, a number of images or a share of them, which may lie just below its decimal."""
    return max_errors if isinstance(max_errors, int) else int(max_errors * images + 1e-6)


def wrong_count(rows: int, images: int) -> str | None:
    """What is wrong with so many rows for so many images, and the fix; None where nothing is."""
    if rows < images:
        return f"{rows:,} of {images:,} images have a row; run the job again with --resume"
    if rows > images:
        return f"{rows:,} rows for {images:,} images: predictions/ holds a file that the run did not write; remove it"
    return None


def read_summary(out: str) -> Summary:
    """A finished run's, as its report has it; counted again where that is gone or damaged. Writes nothing."""
    filesystem, path = open_storage(below(out, "report/summary.parquet"))
    try:
        with storage_errors(out):
            row: dict[str, Any] = pq.read_table(pa.BufferReader(read_whole(filesystem, path))).to_pylist()[0]
        return Summary(**row)
    except (UserError, TypeError, IndexError, ValueError):
        from jobs.reporting.write import count_run

        return count_run(out).summary()
