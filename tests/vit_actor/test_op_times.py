"""The times of the graph's ops on the mock, a clock in the profiler's place: every op is told, beside its own expected figure."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from tests.mock_t3000.golden import Goldens
from tests.silicon import op_times
from vit_actor.config import VitConfig
from vit_actor.device_time import GAP_MICROSECONDS, Step, milliseconds, steps
from vit_actor.geometry import geometry


def of_base(layers: int) -> list[Step]:
    config = VitConfig(num_hidden_layers=layers, id2label=tuple(map(str, range(1000))))
    return steps(geometry(config, images_per_chip=8), "fast")


def test_each_op_of_a_pass_is_timed_and_told_beside_what_is_expected_of_it(
    environ: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, one_thread: None
) -> None:
    for name in op_times.PROFILER:
        environ.setenv(name, "0")  # so that what the command sets ends with the test
    clock = count(1)
    with Goldens(rounding=False):
        line = ["--out", str(tmp_path / "ops.csv"), "--passes", "2", "--layers", "1", "--precision", "fast"]
        op_times.main(line, read=lambda mesh: (float(next(clock)), 64))
    listed = of_base(layers=1)
    ops = sum(step.times for step in listed)
    told = pd.read_csv(tmp_path / "ops.csv")
    # The first reading is of what ran before; of the two passes' readings of an op the middle is told.
    assert list(told[op_times.KERNEL]) == [(2 + at + ops / 2) * 1e3 for at in range(ops)]
    assert set(told["OP CODE"]) == {f"{name}DeviceOperation" for name in op_times.OPERATIONS.values()}
    up = told[told["INPUT_1_X_PAD[LOGICAL]"] == "3072[3072]"]
    assert list(up["OUTPUT_0_Y_PAD[LOGICAL]"]) == ["224[224]"]
    assert set(up["MATH FIDELITY"]) == {"LoFi"}
    printed = capsys.readouterr().out
    without_gaps = (milliseconds(listed) - ops * GAP_MICROSECONDS / 1e3) * 1e3
    assert f"{without_gaps:,.0f} us expected" in printed


def test_steps_of_one_name_come_in_the_order_of_the_graph() -> None:
    listed = of_base(layers=2)
    linears = op_times.expected(listed, "linear", layers=2)
    block = ["query, key, value", "attention's projection", "MLP up, GELU", "MLP down"]
    assert [step.purpose for step in linears] == ["patch projection", *block, *block, "classifier"]
    norms = op_times.expected(listed, "layer_norm", layers=2)
    assert [step.purpose for step in norms] == ["before attention and MLP"] * 4 + ["class token"]


def test_without_the_profiler_one_line_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    import ttnn

    for name in ("synchronize_device", "ReadDeviceProfiler"):
        monkeypatch.setattr(ttnn, name, lambda mesh: None)
    monkeypatch.setattr(ttnn, "get_latest_programs_perf_data", dict)
    with pytest.raises(SystemExit, match="tells nothing; it takes boards"):
        op_times.record(SimpleNamespace(_mesh=None), passes=1)
