"""Replacing a run: what a run wrote goes, and nothing else is touched."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.reporting.write import write_reports
from jobs.running.clearing import clear_run
from jobs.running.manifest import check_free
from tests.jobs.prediction_files import metadata, row, write_file, write_manifest
from vit_actor.errors import UserError


def files(out: Path) -> set[str]:
    return {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished run."""
    out = tmp_path / "out"
    write_manifest(out)
    write_file(out, "a.parquet", [row(0, 0), row(1, 0)], metadata())
    write_reports(str(out))
    return out


def test_all_that_a_run_wrote_goes_and_what_lies_beside_it_stays(out: Path) -> None:
    (out / "predictions" / f".b.parquet.{'0' * 32}.part").write_bytes(b"broken off")
    (out / "photos").mkdir()
    for name in ("photos/a.jpg", "readme.txt"):
        (out / name).write_text("mine")
    clear_run(str(out))
    assert files(out) == {"manifest.json", "photos/a.jpg", "readme.txt"}
    assert not (out / "predictions").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("report/thesis.txt", "report/summary.csv", "report/.hidden", "runs/mine/photo.jpg", "compared/x/mine.parquet"),
        *("predictions/notes.md", "predictions/deep/er/mine.parquet", "predictions/cut.parquet"),
    ],
)
def test_what_no_run_wrote_is_named_and_nothing_is_deleted(out: Path, name: str) -> None:
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("mine")
    if name.endswith("mine.parquet"):
        pq.write_table(pa.table({"image_id": ["x"]}), out / name)
    before = files(out)
    with pytest.raises(UserError, match=f"holds {name} that no run wrote"):
        clear_run(str(out))
    assert files(out) == before


def test_a_page_that_no_run_wrote_is_neither_deleted_nor_written_over(out: Path) -> None:
    (out / "report.html").write_text("<html>mine</html>")
    for act in (clear_run, write_reports):
        with pytest.raises(UserError, match=r"report\.html"):
            act(str(out))
    for name in ("manifest.json", "predictions", "report"):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=r"report\.html"):
        check_free(str(out), overwrite=False)
    assert (out / "report.html").read_text() == "<html>mine</html>"
