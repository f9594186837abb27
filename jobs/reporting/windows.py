"""What meshes did over time: work in windows of one length, which grows so that they stay few."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# Window lengths in nanoseconds, each dividing the next, so that windows merge exactly into longer ones.
WINDOWS = [round(seconds * 1e9) for seconds in (0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 86400, 604800)]
MAX_WINDOWS = 200


@dataclass(frozen=True)
class Work:
    """What a mesh did in one attempt or window: images and batches, and the nanoseconds they kept it busy."""

    images: int = 0
    batches: int = 0
    busy: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.images + other.images, self.batches + other.batches, self.busy + other.busy)


@dataclass
class Windows:
    """Work by time window and mesh, at the shortest window length that leaves at most MAX_WINDOWS windows with work.

    `length` indexes WINDOWS. A part never needs longer windows than the whole, so merging ends at the same length
    whatever the order. `work` is keyed by (attempt, Unix time // length), then by mesh.
    """

    length: int = 0
    work: dict[tuple[int, int], dict[str, Work]] = field(default_factory=dict)

    def __iadd__(self, other: Windows) -> Windows:
        self.lengthen(other.length)
        factor = WINDOWS[self.length] // WINDOWS[other.length]
        for (attempt, window), meshes in other.work.items():
            mine = self.work.setdefault((attempt, window // factor), {})
            for mesh, work in meshes.items():
                mine[mesh] = mine.get(mesh, Work()) + work
        while len(self.work) > MAX_WINDOWS and self.length + 1 < len(WINDOWS):
            self.lengthen(self.length + 1)
        return self

    def at_least(self, time: int) -> Windows:
        """A copy whose windows are no shorter than `time` nanoseconds."""
        longer = Windows(next((i for i, window in enumerate(WINDOWS) if window >= time), len(WINDOWS) - 1))
        longer += self
        return longer

    def lengthen(self, length: int) -> None:
        """Merge windows into those of WINDOWS[length], if that is longer."""
        if length > self.length:
            shorter, self.length, self.work = Windows(self.length, self.work), length, {}
            self += shorter


def spread(start: np.ndarray, time: np.ndarray, images: np.ndarray, counted: np.ndarray, *, attempt: int, mesh: str) -> Windows:
    """The windows of a mesh's batches, each spread evenly over its time; the rounding leaves every image in exactly one window.

    start, time: nanoseconds, of each batch; time at least 1. images: how many each has. All int64 (batches,).
    counted: whether a batch counts as one here, bool (batches,).
    """
    length = next((i for i, window in enumerate(WINDOWS) if time.max() // window < MAX_WINDOWS), len(WINDOWS) - 1)
    window_time = WINDOWS[length]
    first, last = start // window_time, (start + time - 1) // window_time
    touched = last - first + 1
    batch = np.repeat(np.arange(len(start)), touched)
    window = np.arange(len(batch)) - np.repeat(np.cumsum(touched) - touched, touched) + first[batch]
    begin = np.maximum(window * window_time - start[batch], 0)
    end = np.minimum((window + 1) * window_time - start[batch], time[batch])
    part = images[batch] * end // time[batch] - images[batch] * begin // time[batch]
    windows = Windows(length)
    for key, *work in zip(
        window.tolist(), part.tolist(), ((begin == 0) & counted[batch]).tolist(), (end - begin).tolist(), strict=True
    ):
        meshes = windows.work.setdefault((attempt, key), {})
        meshes[mesh] = meshes.get(mesh, Work()) + Work(*work)
    return windows
