"""A real Prometheus scrapes a running job through the configuration that Ray keeps, and answers all that the dashboard asks."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import ROOT
from tests.faults.running import command, wait_until, write_shards
from tests.pipeline.corpus import jpeg
from tests.rig.rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ASK = """
import json, sys, urllib.parse, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
def ask(expression):
    query = urllib.parse.urlencode({"query": expression})
    return json.load(opener.open("http://127.0.0.1:9090/api/v1/query?" + query))["data"]["result"]
print(json.dumps([ask(expression) for expression in json.loads(sys.argv[1])]))
"""


def expressions(run_id: str) -> list[str]:
    """Every expression of the dashboard, as Grafana fills in its variables."""
    dashboard = json.loads((ROOT / "cluster" / "grafana-dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    filled = {"$run": run_id, "$mesh": ".*", "$__rate_interval": "1m"}
    for name, value in filled.items():
        found = [expression.replace(name, value) for expression in found]
    assert not any("$" in expression for expression in found)
    return found


@contextmanager
def prometheus(rig: Rig, directory: Path) -> Iterator[None]:
    """As the manual starts it, on the head, with the alert rules beside Ray's own configuration."""
    config = rig.run(["bash", "-c", "cat $RAY_TMPDIR/ray/session_latest/metrics/prometheus/prometheus.yml"]).stdout
    whole = directory / "prometheus.yml"
    whole.write_text(f"{config}\nrule_files: [{ROOT / 'cluster' / 'alerts.yml'}]\n")
    arguments = [f"--config.file={whole}", "--web.listen-address=127.0.0.1:9090", f"--storage.tsdb.path={directory / 'data'}"]
    server = rig.start(["prometheus", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def test_every_expression_of_the_dashboard_has_data_while_a_run_goes_on(tmp_path: Path) -> None:
    data, out = write_shards(tmp_path / "data", 200), tmp_path / "out"
    broken = {"image": [jpeg(n, 16, 16)[: 200 if n % 8 else 40] for n in range(64)], "label": [n % 10 for n in range(64)]}
    for shard in range(0, 200, 4):  # errors in every window
        pq.write_table(pa.table(broken), data / f"{shard:04d}.parquet")
    with Rig(loudboxes=2, object_store_mb=300) as rig, prometheus(rig, tmp_path):
        job = rig.command(["python", *command(data, out, "compute=3s", "--max-errors=100%")])
        wait_until((out / "manifest.json").exists, job)
        run_id = json.loads((out / "manifest.json").read_text())["run_id"]
        asked = expressions(run_id)

        def answers() -> list[list[dict]]:
            return json.loads(rig.run(["python", "-c", ASK, json.dumps(asked)]).stdout)

        def all_answered() -> bool:
            return all(answer and all(series["value"][1] != "NaN" for series in answer) for answer in answers())

        wait_until(all_answered, job, limit=300)
        by_mesh = {series["metric"].get("mesh") for answer in answers() for series in answer} - {None}
        rules = rig.run(["python", "-c", ASK.replace("/query?", "/rules?").replace('["result"]', '["groups"]'), '["all"]'])
        rig.send(job.pid, signal.SIGTERM)
        job.end()
    assert by_mesh == {"loudbox-1/0-3", "loudbox-2/0-3"}
    (groups,) = json.loads(rules.stdout)
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    assert len([rule for group in groups for rule in group["rules"]]) == 4
