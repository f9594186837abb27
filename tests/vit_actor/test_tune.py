"""The tuner on the mock: every alternative builds, and the verdict follows from the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.mock_t3000.golden import Goldens
from tests.silicon import tune


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_alternative_runs_and_is_told_with_its_agreement(
    environ: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, one_thread: None
) -> None:
    with Goldens(rounding=True):
        tune.main(["--out", str(tmp_path / "tune.parquet"), "--seconds", "0.01", "--rounds", "1", "--layers", "1"])
    table = pd.read_parquet(tmp_path / "tune.parquet")
    assert sorted(table.alternative) == sorted(alternative.name for alternative in tune.ALTERNATIVES)
    assert (table.fps > 0).all()
    assert (table.agreement > 0.99).all()
    assert table.description[0].startswith("simulated by ttnn's mock")
    assert "fastest that agrees as well as accurate:" in capsys.readouterr().out


def test_the_verdict_names_the_fastest_and_the_fastest_that_agrees() -> None:
    rows = [("fast", 12_000.0, 0.990), ("accurate, GELU by tanh", 11_000.0, 0.9985), ("accurate", 10_000.0, 0.998)]
    table = pd.DataFrame(rows, columns=["alternative", "fps", "agreement"])
    assert tune.verdict(table) == "fastest: fast\nfastest that agrees as well as accurate: accurate, GELU by tanh"
