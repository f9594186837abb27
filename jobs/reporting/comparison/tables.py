"""What two runs' answers, side by side, add up to: the tables of a comparison, whose fields say what they hold."""

import json
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa

from jobs.reporting.columns import INT, LONG, TEXT, Query, described
from jobs.reporting.comparison.pairs import GAINED, LOST, STILL_WRONG, UNLABELLED
from jobs.reporting.schema import Summary
from jobs.running.words import counted


@dataclass(frozen=True)
class Comparison:
    """Run B beside run A in one row: comparison.parquet's columns and what they mean; None where there is nothing to say."""

    run_a: Annotated[str, "the run compared with"]
    run_b: Annotated[str, "the run compared"]
    images: Annotated[int, "images in both runs; all that follows is over these, but for what is only in one and for times"]
    only_a: Annotated[int, "images that run B has no row of; listed in only_in_one.parquet"]
    only_b: Annotated[int, "images that run A has no row of; listed in only_in_one.parquet"]
    errors_a: Annotated[int, "images that run A could not classify"]
    errors_b: Annotated[int, "images that run B could not classify"]
    flips: Annotated[int, "images whose answer differs, an error being an answer; listed in flips.parquet"]
    agreement: Annotated[float, "share of images whose answer is the same"]
    labelled: Annotated[int, "images with a label in either run, and not another one in the other: what accuracy is over"]
    relabelled: Annotated[int, "images whose label differs between the runs: they do not count for accuracy"]
    correct_a: Annotated[int, "labelled images that run A got right"]
    correct_b: Annotated[int, "labelled images that run B got right"]
    top1_a: Annotated[float | None, "correct_a / labelled; an image with an error counts as wrong"]
    top1_b: Annotated[float | None, "correct_b / labelled"]
    difference: Annotated[float | None, "top1_b - top1_a"]
    difference_low: Annotated[float | None, "lower end of its 95% interval for paired proportions (Bonett and Price, 2012)"]
    difference_high: Annotated[float | None, "upper end of the same"]
    lost: Annotated[int, "labelled images that were right in A and are wrong in B"]
    gained: Annotated[int, "labelled images that were wrong in A and are right in B"]
    still_wrong: Annotated[int, "labelled images wrong in both, each time with another answer"]
    p_value: Annotated[float | None, "two-sided p-value of McNemar's exact test that lost and gained are equally likely"]
    simulated_a: Annotated[bool, "whether any device of run A was simulated"]
    simulated_b: Annotated[bool, "whether any device of run B was simulated"]
    devices_a: Annotated[list[str], "the distinct descriptions of run A's devices"]
    devices_b: Annotated[list[str], "the distinct descriptions of run B's devices"]
    system_fps_a: Annotated[float | None, "images per second of the whole system, all of run A's images"]
    system_fps_b: Annotated[float | None, "the same of run B"]
    system_fps_ratio: Annotated[float | None, "B / A: above 1, B is faster"]
    device_fps_a: Annotated[float | None, "images per second of one device alone, as if it never waited"]
    device_fps_b: Annotated[float | None, "the same of run B"]
    device_fps_ratio: Annotated[float | None, "B / A: above 1, B's devices are faster"]
    inference_ms_a: Annotated[float | None, "mean milliseconds a full batch kept the device"]
    inference_ms_b: Annotated[float | None, "the same of run B"]
    inference_ratio: Annotated[float | None, "B / A: below 1, B is faster; null where their batches are not of one size"]

    @property
    def verdict(self) -> str:
        if not (self.flips or self.only_a or self.only_b):
            same = "this is the same run twice" if self.run_a == self.run_b else "the answers are identical"
            return f"{same}: {self.images:,} of {self.images:,} images agree"
        told = f"answers differ on {self.flips:,} of {self.images:,} images"
        if self.difference is None or self.difference_low is None or self.difference_high is None or self.p_value is None:
            why = "no image has the same label in both" if self.relabelled else "no labels"
            told += f"; {why}, so no accuracy to compare"
        else:
            low, high = points(self.difference_low), points(self.difference_high)
            told += f"; accuracy {points(self.difference)} points (95% {low} to {high}), McNemar p {p_text(self.p_value)}"
        if self.only_a or self.only_b:
            told += f"; {counted(self.only_a, 'image')} only in A, {self.only_b:,} only in B"
        return told


FROM_PAIRS = {
    "flips": Query("FROM pairs WHERE flipped", "ORDER BY row_a", (
        ("image_id", TEXT, "", "the image"),
        ("label", INT, "", "its true class; null where the data has none, or the runs disagree"),
        ("label_name", TEXT, "named(label)", "its name"),
        ("prediction_a", INT, "", "run A's answer; null on error"),
        ("name_a", TEXT, "named(prediction_a)", "its name"),
        ("probability_a", pa.float32(), "", "its softmax probability"),
        ("error_a", TEXT, "", "why run A has no answer"),
        ("prediction_b", INT, "", "run B's answer; null on error"),
        ("name_b", TEXT, "named(prediction_b)", "its name"),
        ("probability_b", pa.float32(), "", "its softmax probability"),
        ("error_b", TEXT, "", "why run B has no answer"),
        ("kind", TEXT, "", f"{LOST}, {GAINED}, {STILL_WRONG} or {UNLABELLED}"),
    )),
    "flips_per_class": Query("FROM pairs WHERE label IS NOT NULL", "GROUP BY label ORDER BY label", (
        ("class", INT, "label",
         "true class in the checkpoint's order; classes without a labelled image in both runs are left out"),
        ("name", TEXT, "named(label)", "its name"),
        ("images", LONG, "count(*)", "labelled images of it in both runs"),
        ("correct_a", LONG, "times(right_a)", "of those, right in run A"),
        ("correct_b", LONG, "times(right_b)", "of those, right in run B"),
        ("lost", LONG, f"times(kind = '{LOST}')", "right in A and wrong in B"),
        ("gained", LONG, f"times(kind = '{GAINED}')", "wrong in A and right in B"),
        ("still_wrong", LONG, f"times(kind = '{STILL_WRONG}')", "wrong in both, each time with another answer"),
    )),
    "only_in_one": Query("FROM only_in_one", "ORDER BY run, row", (
        ("image_id", TEXT, "", "the image"),
        ("run", TEXT, "", "A or B: the run that has it"),
        ("label", INT, "", "its true class"),
        ("label_name", TEXT, "named(label)", "its name"),
        ("prediction", INT, "", "that run's answer; null on error"),
        ("predicted_name", TEXT, "named(prediction)", "its name"),
    )),
}  # fmt: skip

TOTALS = f"""
SELECT count(*) AS images, times(flipped) AS flips, times(relabelled) AS relabelled, count(label) AS labelled,
  times(prediction_a IS NULL) AS errors_a, times(prediction_b IS NULL) AS errors_b,
  times(label IS NOT NULL AND right_a) AS correct_a, times(label IS NOT NULL AND right_b) AS correct_b,
  times(kind = '{LOST}') AS lost, times(kind = '{GAINED}') AS gained, times(kind = '{STILL_WRONG}') AS still_wrong,
  (SELECT count(*) FROM only_in_one WHERE run = 'A') AS only_a, (SELECT count(*) FROM only_in_one WHERE run = 'B') AS only_b
FROM pairs
"""

SETTINGS = described(
    ("setting", TEXT, "what differs between the runs: a setting, a version, the checkpoint, the data, the devices"),
    ("a", TEXT, "in run A; null where it has none"),
    ("b", TEXT, "in run B; null where it has none"),
)


def points(share: float) -> str:
    """A difference of shares in signed percentage points; one image of 50,000 is 0.002."""
    return f"{100 * share:+.3f}"


def p_text(p: float) -> str:
    """A p-value as one reads it after a p."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.2g}"


def differing_settings(a: Summary, b: Summary) -> pa.Table:
    """What differs of everything that may explain a difference."""
    told_a, told_b = _told(a), _told(b)
    rows = [{"setting": name, "a": told_a.get(name), "b": told_b.get(name)} for name in sorted(told_a | told_b)]
    return pa.Table.from_pylist([row for row in rows if row["a"] != row["b"]], schema=SETTINGS)


def _told(summary: Summary) -> dict[str, str | None]:
    versions = {f"{package} version": version for package, version in json.loads(summary.versions).items()}
    columns = ("job", "data", "model", "model_digest", "planned", "meshes", "batch_size", "devices")
    told = json.loads(summary.config) | versions | {column: getattr(summary, column) for column in columns}
    return {name: value if value is None or isinstance(value, str) else json.dumps(value) for name, value in told.items()}
