"""No credential a run was given is found again in anything it leaves or shows."""

import re
import secrets
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.commands import begin
from tests.conftest import ray_head
from tests.faults.running import Job, command
from tests.processes import processes


@pytest.mark.slow
def test_tokens_stay_in_the_environment(data: Path, tmp_path: Path) -> None:
    marked = f"hf_{secrets.token_hex(16)}"
    with ray_head(tmp_path / "home", "--num-cpus=2", '--resources={"TTNPU": 8}') as cluster:
        environment = {**cluster.environment, "HF_TOKEN": marked, "AWS_SECRET_ACCESS_KEY": marked}
        _, *line = command(data, tmp_path / "out", "compute=200ms", "--address", cluster.address)
        job = Job(begin(*line, environment=environment, fork=False), tmp_path / "out")
        job.wait_for_commits(2)
        lines = processes("", f"HOME={cluster.environment['HOME']}")
        done = job.end()
    assert done.code == 0, done.output

    assert job.process.pid in lines
    sessions = {Path(found) for line in lines.values() for found in re.findall(r"/tmp/ray/session_[0-9_-]+", line)}
    assert sessions
    shown = {"output": done.output, **{f"arguments of {pid}": line for pid, line in lines.items()}}
    folders = [tmp_path / "out", *(session / "logs" for session in sessions)]
    left = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    shown |= {str(file): file.read_bytes().decode("latin-1") for file in left}
    shown |= {f"metadata of {file}": str(pq.read_schema(file).metadata) for file in left if file.suffix == ".parquet"}
    assert any(name.endswith("manifest.json") for name in shown)
    for token in (marked, cluster.environment["RAY_AUTH_TOKEN"]):
        assert [name for name, text in shown.items() if token in text] == []
