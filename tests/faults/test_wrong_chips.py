"""A chip that answers wrongly: none of its answers stays, another mesh gives them again, and a run without one says so."""

import re

import pyarrow.parquet as pq
import pytest

from jobs.running.manifest import checked
from tests.faults.running import Case, committed, footers_in, prediction_files

ELEVEN = "board 5 chip 11"  # Of the second mesh, boards 4 to 7


@pytest.mark.parametrize("after", [12, pytest.param(0, marks=pytest.mark.slow)])
def test_the_chunks_of_a_mesh_with_a_wrong_chip_are_done_by_the_other(case: Case, after: int) -> None:
    done = case.run(f"compute=150ms,wrong_chip=11,wrong_after={after}", "--meshes=2")
    case.check_right(done)
    failed = [life for life in case.attempts[0]["checks"] if life["failed"]]
    assert [life["failed"] for life in failed] == [[ELEVEN]] * len(failed)
    assert failed
    assert all(life["mesh"].endswith("/4-7") for life in failed)
    assert re.search(rf"/4-7: self-check failed: {ELEVEN}: \d+ of 160 scores differ", done.stderr)
    assert f" checks of all chips, {failed[0]['mesh']} {ELEVEN} ({len(failed)} failed)" in done.output


@pytest.mark.parametrize("after", [20, pytest.param(0, marks=pytest.mark.slow)])
def test_a_run_without_another_mesh_ends_in_one_line_and_leaves_no_wrong_row(case: Case, after: int) -> None:
    done = case.run(f"compute=1ms,wrong_chip=3,wrong_after={after}", "--meshes=1")
    assert done.code == 1, done.output
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert re.search(r"self-check failed: board 1 chip 3: \d+ of 160 scores differ, by up to", line)
    assert ("; no other mesh is left; what is committed stays: add --resume" in line) == bool(after)
    for file in prediction_files(case.out):
        for row in pq.ParquetFile(file).read(["image_id", "prediction"]).to_pylist():
            assert case.undisturbed.rows[row["image_id"]][1] == str(row["prediction"])
    case.resume()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["within", "after"])
def test_a_resume_keeps_what_a_check_followed_and_does_the_rest_again(case: Case, moment: str) -> None:
    deadly = case.under(KILLED_AT=moment, KILLED_AFTER="12", LOUDBOX_CHECK_SECONDS="1")
    died = deadly.start("compute=400ms,wrong_chip=3,wrong_after=24", "--meshes=1", module="tests.faults.poisoned").end()
    assert died.code < 0, died.output
    before, is_checked = committed(case.out), checked(case.attempts)
    sound = {footer["chunk"] for file in prediction_files(case.out) for footer in footers_in(file) if is_checked(footer)}
    assert len(sound) < len(before)
    assert "no check of chips followed " in case.resume().stderr
    assert {name for name in before if committed(case.out)[name] == before[name]} == sound
