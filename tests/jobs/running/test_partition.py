"""An output whose address reads as a column of its rows."""

from __future__ import annotations

import pytest

from jobs.running.classification import check_no_partition
from vit_actor.errors import UserError


@pytest.mark.parametrize(
    ("out", "column"), [("/data/mesh=4/run", "mesh"), ("s3://b/host=a/r", "host"), ("run_id=7", "run_id"), ("/a/day=1/label", "")]
)
def test_an_output_that_readers_take_for_a_column_is_refused(out: str, column: str) -> None:
    if column:
        with pytest.raises(UserError, match=f"for column '{column}' of all rows; choose another"):
            check_no_partition(out)
    else:
        check_no_partition(out)
