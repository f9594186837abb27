"""A folder of odd and damaged images through a whole job: each is a row, right or with its reason, in bounded memory."""

import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.decode import DecodeError, decode
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS
from tests.conftest import RayCluster
from tests.faults.running import MODEL, prediction_files, run, workers
from tests.pipeline.fuzz_corpus import corpus, scan_bomb
from vit_actor.checkpoint import load_checkpoint
from vit_actor.preprocess import Preprocess
from vit_actor.simulated import expected_class

MOST_MEMORY = 1.5e9
"""Bytes a decode worker may take: half of it are its libraries, and a size that many damaged headers state would take 10 GB."""


class PeakMemory(threading.Thread):
    """Of any worker of the cluster, in bytes."""

    def __init__(self, home: str) -> None:
        super().__init__(daemon=True)
        self.home, self.peak, self.ended = home, 0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            for pid in workers(self.home, ""):
                with suppress(OSError, IndexError):
                    status = Path(f"/proc/{pid}/status").read_text()
                    self.peak = max(self.peak, 1024 * int(status.split("VmHWM:")[1].split()[0]))


def write_images(folder: Path, count: int) -> dict[str, bytes]:
    """That many files, most of them with another format's extension, by name."""
    folder.mkdir()
    contents = [data for _, data in corpus(count - 1, seed=3)] + [scan_bomb(8000, 8000, 600)]
    files = {f"{n:05d}{IMAGE_EXTENSIONS[n % len(IMAGE_EXTENSIONS)]}": data for n, data in enumerate(contents)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def answer(data: bytes, preprocess: Preprocess) -> tuple[int | None, str | None]:
    """(prediction, error) that a simulated device of ten classes leaves."""
    pixels = np.empty((1, *preprocess.shape), np.uint8)
    try:
        decode(data, preprocess, pixels[0])
    except DecodeError as error:
        return None, str(error)
    return int(expected_class(pixels, 10)[0]), None


@pytest.mark.parametrize("count", [200, pytest.param(2500, marks=pytest.mark.slow)])
def test_every_odd_and_damaged_file_is_a_row_and_costs_no_more_memory_than_a_sound_one(
    meshes: RayCluster, tmp_path: Path, count: int
) -> None:
    files = write_images(tmp_path / "data", count)
    memory = PeakMemory(meshes.environment["HOME"])
    memory.start()
    done = run(meshes, tmp_path / "data", tmp_path / "out", "compute=1ms", "--max-errors=100%")
    memory.ended.set()
    assert done.code == 0, done.output
    parts = [pq.ParquetFile(file).read() for file in prediction_files(tmp_path / "out")]
    rows = [row for part in parts for row in part.select(["image_id", "prediction", "error"]).to_pylist()]
    assert len(rows) == count
    preprocess = load_checkpoint(str(MODEL)).preprocess
    expected = {name: answer(data, preprocess) for name, data in files.items()}
    assert {row["image_id"]: (row["prediction"], row["error"]) for row in rows} == expected
    assert 0.1 < sum(row["error"] is not None for row in rows) / count < 0.9
    print(f"peak memory of a worker: {memory.peak / 1e6:.0f} MB")
    assert 0 < memory.peak < MOST_MEMORY
