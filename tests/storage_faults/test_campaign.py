"""Some runs of the campaign of random faults of storage."""

import re

from tests.commands import run_module


def test_random_faults_lose_double_and_spoil_no_row() -> None:
    done = run_module("tests.soak", "--storage", "--minutes=0.3", "--seed=1")
    assert done.code == 0, done.output[-4000:]
    total = r"[1-9]\d* faults in [1-9]\d* runs; rows: 0 lost, 0 doubled, 0 wrong; runs with a problem: none"
    assert re.fullmatch(total, done.stdout.splitlines()[-1])
