"""When a device's batches began and how long they took, from the prediction rows that they answered."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.reporting.windows import Work

# Batch times fall into buckets a factor apart whose geometric middle is within 0.5% of anything in them:
# sqrt(1.0099) = 1.00494. From 10 us to 28 hours; what lies beyond is put into the outermost buckets.
BUCKET_EDGES = np.rint(1e4 * 1.0099 ** np.arange(2340)).astype(np.int64)


@dataclass(frozen=True)
class Span:
    """Where the batches of one mesh in one attempt lie in time: Unix nanoseconds of the first start and the last end.

    When a batch ended is not recorded, but follows: a mesh completes one batch at a time, so `last` is at least each
    start plus the time that batch and those after it kept the device, and `end` at least the first start plus all
    of its busy time.
    """

    first: int
    last: int
    work: Work

    @property
    def end(self) -> int:
        return max(self.last, self.first + self.work.busy)

    def __add__(self, other: Span) -> Span:
        return Span(min(self.first, other.first), max(self.last, other.last), self.work + other.work)


@dataclass(frozen=True)
class Parts:
    """What some rows are of the batches that they were in, by batch; nanoseconds, but for the images and the flags.

    begins: whether the batch's first image is among these rows. full: the times of full batches that begin here.
    """

    start: np.ndarray
    time: np.ndarray
    images: np.ndarray
    begins: np.ndarray
    full: np.ndarray


@dataclass(frozen=True)
class Batches:
    """Of each row its batch's number, -1 without any; that batch's start in Unix nanoseconds; its time in nanoseconds."""

    number: np.ndarray
    start: np.ndarray
    time: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> Batches:
        start = pc.fill_null(table["started_at"].cast(pa.int64()), 0).to_numpy() * 1000  # us -> ns
        time = np.rint(pc.fill_null(table["batch_seconds"], 0).to_numpy() * 1e9).astype(np.int64)
        return cls(integers(table["batch"], -1), start, time)

    def slice(self, first: int, last: int) -> Batches:
        """Of the rows from `first` to `last` that were in a batch."""
        rows = first + np.flatnonzero(self.number[first:last] >= 0)
        return Batches(self.number[rows], self.start[rows], self.time[rows])

    def parts(self, batch_size: int, shared: dict[str, list[int]]) -> Parts:
        """batch_size: images in a full one. shared: FileMetadata.shared_batches."""
        numbers, first, images = np.unique(self.number, return_index=True, return_counts=True)
        start, time = self.start[first], self.time[first]

        # A batch taken while others are in flight keeps the device only once they are done.
        done = np.cumsum(time)
        start = np.maximum.accumulate(start - (done - time)) + done - time

        # Of a batch that several files have a part of, each counts its images' share of the time, and the first one the batch.
        begin, whole = np.zeros_like(images), images.copy()
        for i in np.flatnonzero(np.isin(numbers, [int(number) for number in shared])):
            begin[i], whole[i] = shared[str(numbers[i])]
        full = time[(whole == batch_size) & (begin == 0)]
        from_, to = time * begin // whole, time * (begin + images) // whole
        return Parts(start + from_, to - from_, images, begin == 0, full)


def buckets(times: np.ndarray) -> np.ndarray:
    """The buckets of batch times in nanoseconds."""
    return np.searchsorted(BUCKET_EDGES, times, side="right")


def quantile(batch_times: Counter[int], share: float) -> float | None:
    """The batch time in nanoseconds that `share` of the full batches do not exceed (nearest rank), within 0.5%."""
    rank = math.ceil(share * batch_times.total())
    for bucket in sorted(batch_times):
        rank -= batch_times[bucket]
        if rank <= 0:
            low, high = bucket_bounds(bucket)
            return math.sqrt(low * high)
    return None


def bucket_bounds(bucket: int) -> tuple[int, int]:
    """The shortest and longest batch time of a bucket, nanoseconds."""
    bucket = min(max(bucket, 1), len(BUCKET_EDGES) - 1)
    return int(BUCKET_EDGES[bucket - 1]), int(BUCKET_EDGES[bucket])


def integers(column: pa.ChunkedArray, null: int) -> np.ndarray:
    return pc.fill_null(column, null).to_numpy()
