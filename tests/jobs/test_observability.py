"""A live run as its operators see it: Prometheus counts what the predictions hold, and worker logs tell what happened."""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.commands import ROOT, begin, run_module
from tests.conftest import RayCluster, free_port, ray_head
from tests.faults.running import SHARD, command, write_shards
from tests.pipeline.corpus import jpeg
from tests.waiting import wait_until

DASHBOARD = (ROOT / "cluster" / "grafana-dashboard.json").read_text()
BATCHES = 7  # Of a second each: a gauge is sampled every 5

Samples = dict[tuple[str, str, str], float]  # Values by sample name, run id and mesh; a histogram's buckets are summed up


@dataclass(frozen=True)
class Node:
    """A head with the boards of one mesh, which exports metrics every second."""

    cluster: RayCluster
    metrics: str
    logs: Path

    def scrape(self) -> Samples:
        """What Prometheus would get of this project now."""
        values: Samples = {}
        for family in text_string_to_metric_families(urlopen(self.metrics, timeout=10).read().decode()):
            for sample in family.samples:
                if sample.name.startswith("ray_loudbox_"):
                    key = sample.name, sample.labels["run_id"], sample.labels["mesh"]
                    values[key] = values.get(key, 0) + sample.value
        return values

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """JSON lines of this run in the logs of Ray's workers, in order."""
        lines = [line for log in self.logs.glob("worker-*.err") for line in log.read_text().splitlines() if run_id in line]
        return sorted((json.loads(line) for line in lines if line.startswith("{")), key=lambda event: event["time"])


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's socket paths have 107 bytes in all
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        options = [f"--metrics-export-port={port}", f"--temp-dir={home}/ray", '--resources={"TTNPU": 4}']
        with ray_head(home, "--num-cpus=2", *options) as cluster:
            yield Node(cluster, f"http://127.0.0.1:{port}/metrics", home / "ray/session_latest/logs")
    shutil.rmtree(home, ignore_errors=True)


def arguments(node: Node, data: Path, out: Path, timing: str) -> list[str]:
    return command(data, out, timing, "--address", node.cluster.address)[1:]


def run_id(out: Path) -> str:
    return json.loads((out / "manifest.json").read_text())["run_id"]


@dataclass(frozen=True)
class Run:
    scrapes: list[Samples]  # One a second while it ran, and the last after its end
    run_id: str
    mesh: str
    rows: pa.Table
    node: Node

    def values(self, name: str) -> list[float]:
        """Of each scrape that had a sample of that name for this run and mesh."""
        key = name, self.run_id, self.mesh
        return [scrape[key] for scrape in self.scrapes if key in scrape]


@pytest.fixture(scope="module")
def run(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """BATCHES batches of a second each, with 3 images that cannot be read."""
    tmp = tmp_path_factory.mktemp("observed")
    data = write_shards(tmp / "data", BATCHES)
    images = [b"not an image"] * 3 + [jpeg(n, 16, 16) for n in range(SHARD - 3)]
    pq.write_table(pa.table({"image": images, "label": [0] * SHARD}), data / "0000.parquet")
    job = begin(*arguments(node, data, tmp / "out", "compute=1s"), environment=node.cluster.environment)
    scrapes = [node.scrape()]
    while job.poll() is None:
        time.sleep(1)
        scrapes.append(node.scrape())
    assert job.poll() == 0
    rows = pq.read_table(tmp / "out" / "predictions")
    run = Run(scrapes, run_id(tmp / "out"), rows["mesh"][0].as_py(), rows, node)

    def last_export_is_there() -> bool:
        scrapes.append(node.scrape())
        return max(run.values("ray_loudbox_images_total"), default=0) >= rows.num_rows

    wait_until(last_export_is_there, limit=30)
    return run


def test_what_prometheus_gets_is_what_the_predictions_hold_and_all_that_the_dashboard_asks_for(run: Run) -> None:
    assert run.rows.num_rows == run.values("ray_loudbox_images_total")[-1] == BATCHES * SHARD
    assert run.values("ray_loudbox_errors_total")[-1] == run.rows.num_rows - run.rows["error"].null_count == 3
    batches = {row["batch"]: row["batch_seconds"] for row in run.rows.to_pylist() if row["error"] is None}
    assert run.values("ray_loudbox_batch_seconds_count")[-1] == len(batches) == BATCHES
    # Ray takes every time for its bucket's middle, and buckets are 1.5 times as wide as the one before.
    assert run.values("ray_loudbox_batch_seconds_sum")[-1] == pytest.approx(sum(batches.values()), rel=0.25)
    assert 0.5 < max(run.values("ray_loudbox_device_busy_share")) <= 1  # it never waits between its first batch and its last
    assert 0 < max(run.values("ray_loudbox_queue_batches")) <= 5  # as many chunks of one batch as an actor is given at once
    asked = set(re.findall(r"ray_\w+", DASHBOARD))
    exported = {name for scrape in run.scrapes for name, *whose in scrape if whose == [run.run_id, run.mesh]}
    assert (len(asked), asked - exported) == (5, set())


def test_every_panel_lets_the_user_choose_prometheus_run_and_mesh() -> None:
    dashboard = json.loads(DASHBOARD)
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "run", "mesh"}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert '{run_id="$run",mesh=~"$mesh"}' in target["expr"]


def test_a_run_without_trouble_logs_that_its_mesh_opened_and_closed_and_nothing_else(run: Run) -> None:
    def told() -> list[tuple[Any, ...]]:
        return [(event["event"], event["level"], event["mesh"], event.get("restart")) for event in run.node.events(run.run_id)]

    wait_until(lambda: len(told()) > 1, 30)  # the actor may close its mesh after the job has ended
    assert told() == [("mesh opened", "info", run.mesh, False), ("mesh closed", "info", run.mesh, None)]


@pytest.mark.slow
def test_a_lost_device_and_the_restart_after_it_are_told_on_the_terminal_and_in_the_workers_logs(
    node: Node, tmp_path: Path
) -> None:
    data = write_shards(tmp_path / "data", 8)
    checked = {**node.cluster.environment, "LOUDBOX_CHECK_SECONDS": "0.5"}  # else the device never lives to see a check
    done = run_module(*arguments(node, data, tmp_path / "out", "compute=200ms,fail_after=22"), environment=checked)
    assert done.code == 0, done.output
    assert "/0-3: the device failed: the simulated device failed after 22 batches, as asked" in done.stderr
    assert "/0-3: the actor on this mesh was replaced" in done.stderr
    events = [(event["level"], event["event"]) for event in node.events(run_id(tmp_path / "out"))]
    assert events[:3] == [("info", "mesh opened"), ("warning", "device lost"), ("info", "mesh opened")]
    assert (events[1], events[1]) not in pairwise(events)  # though several calls wait for it
    assert ("info", "mesh closed") in events
    assert {event["mesh"] for event in node.events(run_id(tmp_path / "out"))} == set(
        pq.read_table(tmp_path / "out" / "predictions")["mesh"].to_pylist()
    )
