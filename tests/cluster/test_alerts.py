"""The alert rules fire for what they name and for nothing else, as Prometheus's own tool says."""

from __future__ import annotations

import subprocess

import pytest

from tests.commands import ROOT


@pytest.mark.slow  # needs Debian's prometheus, which CI does not install
def test_the_alerts_fire_for_what_they_name() -> None:
    checked = subprocess.run(
        ["promtool", "test", "rules", "tests/cluster/alerts_test.yml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "SUCCESS" in checked.stdout + checked.stderr
