"""What predictions add up to: partial counts of some rows, mergeable in any order and grouping, bounded in size.

Everything is an integer, a minimum, a maximum or a set, so that a sum of counts does not depend on its order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.reporting.batches import Batches, Span, buckets, integers
from jobs.reporting.imagenet_sets import Real, count_corruptions, count_real
from jobs.reporting.reasons import Reasons, reason
from jobs.reporting.windows import Windows, Work, spread

COLUMNS = [
    "image_id",
    "label",
    "prediction",
    "held_prediction",
    "top5",
    "top5_probability",
    "error",
    "batch",
    "started_at",
    "batch_seconds",
]

CALIBRATION_BINS = 15
"""Equal widths of confidence, the number Guo et al. (2017) use."""
CERTAIN = 1 << 24
"""A confidence of 1 as an integer: confidences add up as multiples of 2^-24, which holds a float32 in [0.5, 1] exactly."""


@dataclass(frozen=True)
class FileMetadata:
    """The footer of a chunk of predictions: the attempt, mesh and device its rows come from.

    batch_size: images in a full batch. compile_seconds: what the mesh's device took to start.
    chunk: name of the part of the data set that its rows are, in order. read_cpu_seconds: CPU time of reading and decoding it.
    start: what the device's start took, by phase (Device.start).
    opened_at: Unix seconds at which the mesh was ready for its first images; None in files of earlier versions.
    shared_batches: by number, the batches that other files have a part of: where this file's images begin among the batch's,
        and how many the batch has.
    rows: how many a chunk has; None for all of a file.
    """

    run_id: str
    attempt: int
    mesh: str
    description: str
    batch_size: int
    compile_seconds: float
    versions: dict[str, str]
    chunk: str
    read_cpu_seconds: float
    start: dict[str, float] = field(default_factory=dict)
    opened_at: float | None = None
    shared_batches: dict[str, list[int]] = field(default_factory=dict)
    rows: int | None = None


@dataclass(frozen=True, order=True)
class Example:
    """Where an image is: the `row`-th of `chunk`. Sorts by doubt, the surest answer first, then by id.

    doubt: CERTAIN less the confidence in the answer, both in multiples of 1 / CERTAIN.
    """

    doubt: int
    image_id: str
    chunk: str
    row: int


@dataclass
class Counts:
    """Sums over prediction rows; `a += b` merges, commutatively and associatively, without keeping parts of b.

    Size is bounded by classes squared (pairs that occur), meshes x MAX_WINDOWS, and constants; not by rows.
    """

    images: int = 0
    """Rows, with or without error."""
    errors: int = 0
    confusion: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images by (label, prediction), over labelled images that were classified."""
    label_errors: Counter[int] = field(default_factory=Counter)
    """Labelled images with an error, by label."""
    top5: Counter[int] = field(default_factory=Counter)
    """Images whose label is among the five best classes, by label."""
    held: Counter[str] = field(default_factory=Counter)
    """Of data that holds fewer classes than the checkpoint knows: images `answered` and labelled ones `correct` when only the
    classes it holds compete."""
    real: Counter[str] = field(default_factory=Counter)
    """See `count_real`."""
    corrupted: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Labelled images of ImageNet-C by (corruption, severity)."""
    corrupted_correct: Counter[tuple[str, int]] = field(default_factory=Counter)
    predicted: Counter[int] = field(default_factory=Counter)
    """Images by prediction, labelled or not."""
    examples: dict[tuple[int, int], Example] = field(default_factory=dict)
    """By (label, prediction) that differ, the image of which the model was surest."""
    confident: Counter[int] = field(default_factory=Counter)
    """Labelled images that were classified, by bin of confidence (the top-1 probability): 0 to CALIBRATION_BINS - 1."""
    confident_correct: Counter[int] = field(default_factory=Counter)
    """Of those, the ones whose prediction is the label."""
    confidence: Counter[int] = field(default_factory=Counter)
    """Their confidences added up, by bin, in multiples of 1 / CERTAIN."""
    reasons: Reasons = field(default_factory=Reasons)
    spans: dict[tuple[int, str], Span] = field(default_factory=dict)
    """By (attempt, mesh)."""
    windows: Windows = field(default_factory=Windows)
    batch_times: Counter[int] = field(default_factory=Counter)
    """Full batches by bucket (see `buckets`)."""
    full_batch_time: int = 0
    """Nanoseconds of all full batches."""
    compile_seconds: dict[str, float] = field(default_factory=dict)
    """The longest start of each mesh."""
    starts: dict[tuple[str, str], float] = field(default_factory=dict)
    """The longest of each phase of a start, by (mesh, phase)."""
    opened: dict[tuple[int, str], int] = field(default_factory=dict)
    """Unix nanoseconds at which a mesh was first ready, by (attempt, mesh)."""
    read_time: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Nanoseconds of CPU time for reading and decoding the images a mesh got, by (attempt, mesh); on whatever hosts."""
    descriptions: set[str] = field(default_factory=set)
    batch_sizes: set[int] = field(default_factory=set)
    run_ids: set[str] = field(default_factory=set)
    versions: set[tuple[str, str]] = field(default_factory=set)

    def __iadd__(self, other: Counts) -> Counts:
        self.images += other.images
        self.errors += other.errors
        self.full_batch_time += other.full_batch_time
        self.reasons += other.reasons
        self.windows += other.windows
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter | set):
                mine.update(theirs)
        for key, span in other.spans.items():
            self.spans[key] = self.spans[key] + span if key in self.spans else span
        for key, at in other.opened.items():
            self.opened[key] = min(at, self.opened.get(key, at))
        for pair, example in other.examples.items():
            self.examples[pair] = min(example, self.examples.get(pair, example))
        for mesh, seconds in other.compile_seconds.items():
            self.compile_seconds[mesh] = max(seconds, self.compile_seconds.get(mesh, seconds))
        for phase, seconds in other.starts.items():
            self.starts[phase] = max(seconds, self.starts.get(phase, seconds))
        return self


def count(table: pa.Table, *chunks: FileMetadata, real: Real | None = None) -> Counts:
    """The counts of prediction rows: a table with COLUMNS as in jobs/pipeline/schema.py, and the footers of its chunks in order.

    real: the right classes of ImageNet's validation images, where they are to be counted too.
    """
    label, prediction = integers(table["label"], -1), integers(table["prediction"], -1)
    labelled, classified = label >= 0, prediction >= 0
    both = labelled & classified
    counts = Counts(
        images=len(table),
        errors=int(np.count_nonzero(~classified)),
        confusion=_counted_pairs(label[both], prediction[both]),
        label_errors=_counted(label[labelled & ~classified]),
        top5=_counted(label[_in_top5(table["top5"], label)]),
        predicted=_counted(prediction[classified]),
    )
    if counts.errors:
        failed, reasons = table.filter(pa.array(~classified)), Reasons()
        for message, image_id in zip(failed["error"].to_pylist(), failed["image_id"].to_pylist(), strict=True):
            reasons.add(reason(message), 1, image_id)
        counts.reasons += reasons
    if "held_prediction" in table.column_names:  # else of an earlier version
        held = integers(table["held_prediction"], -1)
        if (held >= 0).any():
            counts.held = Counter(answered=int((held >= 0).sum()), correct=int((labelled & (held == label)).sum()))
    counts.corrupted, counts.corrupted_correct = count_corruptions(table["image_id"], label, prediction)
    if real is not None:
        counts.real = count_real(table["image_id"], prediction, real)
    first_rows = np.cumsum([0, *(len(table) if chunk.rows is None else chunk.rows for chunk in chunks)])
    _count_confidence(counts, table, label, prediction, chunks, first_rows)
    batches = Batches.of(table)
    for chunk, first, last in zip(chunks, first_rows, first_rows[1:], strict=False):
        _count_start(counts, chunk)
        _count_batches(counts, batches.slice(first, last), chunk)
    return counts


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of a proportion, trials > 0; z is the normal quantile, here of 95% coverage."""
    share, extra = successes / trials, z * z / trials
    centre = share + extra / 2
    half = z * math.sqrt(share * (1 - share) / trials + extra / (4 * trials))
    return max(0.0, (centre - half) / (1 + extra)), min(1.0, (centre + half) / (1 + extra))


def _count_confidence(
    counts: Counts,
    table: pa.Table,
    label: np.ndarray,
    prediction: np.ndarray,
    chunks: Sequence[FileMetadata],
    first_rows: np.ndarray,
) -> None:
    rows = np.flatnonzero((label >= 0) & (prediction >= 0))
    best = pc.list_element(table["top5_probability"].take(pa.array(rows)), 0).to_numpy()
    confidence = np.rint(np.clip(np.nan_to_num(best), 0, 1) * np.float64(CERTAIN)).astype(np.int64)
    bins = np.maximum((confidence * CALIBRATION_BINS - 1) // CERTAIN, 0)  # (0, 1/15], (1/15, 2/15], ...
    right = label[rows] == prediction[rows]
    counts.confident = _counted(bins)
    counts.confident_correct = _counted(bins[right])
    sums = np.zeros(CALIBRATION_BINS, np.int64)
    np.add.at(sums, bins, confidence)
    counts.confidence = Counter({each: int(sums[each]) for each in counts.confident})

    wrong, doubt = rows[~right], CERTAIN - confidence[~right]
    pair = _pair(label[wrong], prediction[wrong])
    order = np.lexsort((doubt, pair))
    wrong, doubt, pair = wrong[order], doubt[order], pair[order]
    _, first, size = np.unique(pair, return_index=True, return_counts=True)
    surest = np.flatnonzero(doubt == np.repeat(doubt[first], size))  # of each pair at least one
    wrong, doubt = wrong[surest], doubt[surest]
    ids = table["image_id"].take(pa.array(wrong)).to_pylist()
    chunk = np.searchsorted(first_rows, wrong, side="right") - 1
    row = wrong - first_rows[chunk]
    pairs = zip(label[wrong].tolist(), prediction[wrong].tolist(), strict=True)
    for key, *found in zip(pairs, doubt.tolist(), ids, chunk.tolist(), row.tolist(), strict=True):
        example = Example(found[0], found[1], chunks[found[2]].chunk, found[3])
        counts.examples[key] = min(example, counts.examples.get(key, example))


def _count_start(counts: Counts, chunk: FileMetadata) -> None:
    """Count what a chunk's footer tells of its device and the reading of its images."""
    mesh, place = chunk.mesh, (chunk.attempt, chunk.mesh)
    counts.compile_seconds[mesh] = max(chunk.compile_seconds, counts.compile_seconds.get(mesh, chunk.compile_seconds))
    for phase, seconds in chunk.start.items():
        counts.starts[mesh, phase] = max(seconds, counts.starts.get((mesh, phase), seconds))
    if chunk.opened_at:
        at = round(chunk.opened_at * 1e9)
        counts.opened[place] = min(at, counts.opened.get(place, at))
    counts.read_time[place] += round(chunk.read_cpu_seconds * 1e9)
    counts.descriptions.add(chunk.description)
    counts.batch_sizes.add(chunk.batch_size)
    counts.run_ids.add(chunk.run_id)
    counts.versions.update(chunk.versions.items())


def _count_batches(counts: Counts, batches: Batches, metadata: FileMetadata) -> None:
    if not len(batches.number):
        return
    parts = batches.parts(metadata.batch_size, metadata.shared_batches)
    counts.batch_times.update(buckets(parts.full).tolist())
    counts.full_batch_time += int(parts.full.sum())
    work = Work(int(parts.images.sum()), int(parts.begins.sum()), int(parts.time.sum()))
    place, span = (metadata.attempt, metadata.mesh), Span(int(parts.start.min()), int((parts.start + parts.time).max()), work)
    counts.spans[place] = counts.spans[place] + span if place in counts.spans else span
    time = np.maximum(parts.time, 1)
    counts.windows += spread(parts.start, time, parts.images, parts.begins, attempt=metadata.attempt, mesh=metadata.mesh)


def _in_top5(top5: pa.ChunkedArray, label: np.ndarray) -> np.ndarray:
    """Rows whose label is one of their best classes; bool (rows,)."""
    lists = top5.combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy()
    hit = np.zeros(len(label), dtype=bool)
    hit[rows[pc.list_flatten(lists).to_numpy() == label[rows]]] = True
    return hit


def _counted(values: np.ndarray) -> Counter[int]:
    found, times = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), times.tolist(), strict=True)))


def _pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two integers from 0 to 2^31 - 1 as one of 64 bits."""
    return first.astype(np.int64) << 32 | second.astype(np.int64)


def _counted_pairs(first: np.ndarray, second: np.ndarray) -> Counter[tuple[int, int]]:
    found, times = np.unique(_pair(first, second), return_counts=True)
    pairs = zip((found >> 32).tolist(), (found & 0xFFFFFFFF).tolist(), strict=True)
    return Counter(dict(zip(pairs, times.tolist(), strict=True)))
