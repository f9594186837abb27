"""A steady run and what is read of its report."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.reporting.counts import Counts
from jobs.reporting.schema import Summary
from jobs.reporting.write import write_reports
from tests.jobs.prediction_files import chunk, metadata, write_file


def a_run(
    out: Path, classes: int = 10, meshes: int = 2, files: int = 8, description: str = "cpu, float32", images: int = 96
) -> None:
    """Files of a steady run, each mesh's one after the other."""
    rng = np.random.default_rng(0)
    for i in range(files):
        mesh, turn = i % meshes, i // meshes
        rows = chunk(rng, images, classes, 32, turn * 0.35, 0.09, first_batch=3 * turn)
        about = metadata(f"host-{mesh:02d}/0-3", batch_size=32, description=description, compile_seconds=2.0 + mesh)
        write_file(out, f"part-{i % 3}/chunk-{i:03d}.parquet", rows, about)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """A reported run of one mesh without a manifest; not to be written to."""
    out = tmp_path_factory.mktemp("steady")
    a_run(out, meshes=1, files=12)
    return out, write_reports(str(out))


def read(out: Path, name: str) -> list[dict]:
    return pq.read_table(out / "report" / f"{name}.parquet").to_pylist()


def page(out: Path) -> str:
    return (out / "report.html").read_text()


def reported(out: Path) -> str:
    """The page of a run once it is reported."""
    write_reports(str(out))
    return page(out)


def drawings(html: str) -> list[str]:
    """What is read of each drawing to those who do not see it."""
    return re.findall(r'<div class="plot[^>]* role="img" aria-label="([^"]+)"', html)


def plain(counts: Counts) -> dict[str, list[str]]:
    """Counts without the order of their rows."""
    return {name: sorted(map(str, found.to_pylist())) for name, found in counts.items()}


def images(counts: Counts) -> int:
    """Rows that are counted."""
    return sum(counts["answers"]["images"].to_pylist())
