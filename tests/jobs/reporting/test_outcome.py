"""Whether a run is as accurate as it was asked to be: judged exactly, told in a line, with an exit code of its own."""

from pathlib import Path

import pytest

from jobs.report import main
from jobs.reporting.outcome import allowed_errors, judged, read_summary
from jobs.reporting.write import write_reports
from tests.jobs.conftest import ended
from tests.jobs.prediction_files import metadata, row, write_file, write_manifest


def a_run(out: Path, right: int, of: int, state: str = "finished", labelled: bool = True) -> Path:
    """A run with so many right answers, reported."""
    write_file(out, "a.parquet", [row(0 if labelled else None, 0 if n < right else 1, at=n) for n in range(of)], metadata())
    attempt = {"attempt": 1, "started_at": "", "ended_at": "", "state": "finished" if state == "synthetic" else state}
    write_manifest(out, job="synthetic" if state == "synthetic" else "imagenet", attempts=[attempt])
    write_reports(str(out))
    return out


def test_a_report_made_again_says_that_there_are_too_many_errors_or_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(0, None, error="no", image_id=f"{n}") for n in range(3)]
    write_file(tmp_path, "a.parquet", [*rows, row(0, 0, image_id="right")], metadata())
    for images, code, told in (
        (4, 3, "error: 3 of 4 images could not be read; --max-errors allows 1"),
        (3, 1, "error: 4 rows for 3"),
    ):
        write_manifest(tmp_path, images=images, chosen={"max_errors": 1})
        ends, said = ended(lambda: main(["--out", str(tmp_path)]), capsys)
        assert (ends, told in said) == (code, True)


@pytest.mark.parametrize(
    ("right", "of", "reference", "asked", "told"),
    [
        (97, 100, None, "97%", ""),
        (486, 500, None, "97.2%", ""),  # equal, though 0.972 and 97.2 / 100 differ as floats
        (971, 1000, None, "97.2%", "is 97.10% (95% interval 95.87% to 97.97%), 0.100 points below --min-top1 97.2%"),
        (99, 100, (100, 100), "99%-of {}", ""),
        (98, 100, (100, 100), "99%-of {}", ", 1.000 points below --min-top1 99%-of {} (99.00%)"),
        (1, 3, (1, 3), "100%-of {}", ""),
        (0, 0, None, "1%", "no image has a label, so --min-top1 1% cannot be met"),
    ],
)
def test_a_run_below_what_was_asked_ends_with_4_and_says_by_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    right: int, of: int, reference: tuple[int, int] | None, asked: str, told: str,
) -> None:  # fmt: skip
    out = a_run(tmp_path / "out", right, of or 4, labelled=of > 0)
    other = a_run(tmp_path / "other", *reference) if reference else None
    code = main(["--out", str(out), "--min-top1", *asked.format(other).split()])
    printed = capsys.readouterr()
    assert (code, told.format(other) in printed.err, printed.err.count("error:")) == ((4, True, 1) if told else (0, True, 0))
    assert "images" in printed.out


@pytest.mark.parametrize(
    ("state", "labelled", "told"),
    [
        ("missing", True, "holds no finished run of jobs.imagenet"),
        ("classified", True, "holds no finished run of jobs.imagenet"),
        ("synthetic", True, "holds no finished run of jobs.imagenet"),
        ("finished", False, "has no labels, so no accuracy to compare with"),
    ],
)
def test_a_run_that_gives_no_accuracy_to_compare_with_is_told_first(
    tmp_path: Path, state: str, labelled: bool, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if state != "missing":
        a_run(tmp_path / "other", 1, 2, state, labelled)
    code, said = ended(lambda: main(["--out", str(tmp_path / "out"), "--min-top5", f"99%-of {tmp_path}/other"]), capsys)
    assert (code, told in said) == (2, True)


def test_too_many_errors_come_first_and_a_summary_is_read_as_it_was_written(tmp_path: Path) -> None:
    a_run(tmp_path, 2, 3)
    write_file(tmp_path, "b.parquet", [row(0, None)], metadata(chunk="images-000001-0123456789abcdef.00000"))
    written = write_reports(str(tmp_path))
    assert read_summary(str(tmp_path)) == written
    (tmp_path / "report" / "summary.parquet").unlink()
    assert read_summary(str(tmp_path)) == written
    assert [judged(written, [], most)[0] for most in (0, 1, 0.24, 0.25)] == [3, 0, 3, 0]
    assert allowed_errors(0.29, 100) == 29  # though 0.29 * 100 is less
