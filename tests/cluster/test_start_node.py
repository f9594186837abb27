"""start-node.sh: what it refuses, what it hands to `ray start`, and two machines that it makes one cluster."""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp

import pytest
import yaml

from jobs.running import machine
from tests.cluster.fake_host import put
from tests.commands import ROOT, Finished, run_line
from tests.rig import Rig
from tests.waiting import wait_until

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HEAD, LOUDBOX = "10.77.0.1", "10.77.0.2"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A home with a token and a project whose `ray` only tells what it was called with."""
    tell = '#!/bin/sh\nfor word in "$@"; do echo "$word"; done\nenv | grep -E "^(RAY_|TT_|PYTHONUTF8)"\n'
    put(tmp_path / "project/.venv/bin/ray", tell).chmod(0o755)
    (tmp_path / "project/cluster").symlink_to(ROOT / "cluster")
    put(tmp_path / "home/.ray/auth_token", secrets.token_hex(32)).chmod(0o600)
    return tmp_path


def start(host: Path, *arguments: str, project: str = "project", limits: Sequence[str] = (), **environment: str) -> Finished:
    own = {"PATH": PATH, "HOME": str(host / "home"), "RAY_TMPDIR": str(host / "ray"), **environment}
    return run_line(*limits, host / project / "cluster/start-node.sh", *arguments, environment=own)


def test_a_head_keeps_its_dashboard_to_itself_asks_for_the_token_and_notices_losses_fast(host: Path) -> None:
    words = start(host, "head", "--block", "--dashboard-host=10.0.0.1").stdout.splitlines()
    assert words[0] == "start"
    assert {"--head", "--port=6379", "--block"} <= set(words)
    assert {"RAY_AUTH_MODE=token", "RAY_health_check_period_ms=1000", "RAY_health_check_failure_threshold=3"} <= set(words)
    hosts = [word for word in words if word.startswith("--dashboard-host=")]
    assert hosts == ["--dashboard-host=127.0.0.1", "--dashboard-host=10.0.0.1"], "an operator's option comes last and so wins"
    assert {f"--num-cpus={machine.cpus()}", f"--object-store-memory={machine.object_store_bytes()}", "PYTHONUTF8=1"} <= set(words)
    shm, memory = os.statvfs("/dev/shm"), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 75 * 2**20 < machine.object_store_bytes() <= min(shm.f_blocks * shm.f_frsize * 0.8, memory / 4 * 1.01, 32 * 2**30)


def test_a_worker_joins_the_head_it_is_given_on_the_same_ports_as_every_node(host: Path) -> None:
    words = set(start(host, "worker", "10.0.0.1").stdout.splitlines())
    assert {"--address=10.0.0.1:6379", "RAY_AUTH_MODE=token", f"--temp-dir={host}/ray/ray"} <= words
    assert not any("health_check" in word for word in words)
    ports = {word for word in words if word.startswith("--") and "port=" in word}
    assert ports == {word for word in start(host, "head").stdout.splitlines() if word in ports}
    assert len(ports) == 8
    assert (host / "ray").stat().st_mode & 0o777 == 0o700, "another account can enter"


def with_token(host: Path, text: str, mode: int) -> None:
    put(host / "home/.ray/auth_token", text).chmod(mode)


@pytest.mark.parametrize(
    ("harm", "arguments", "told"),
    [
        (lambda host: (host / "home/.ray/auth_token").unlink(), ["head"], "start-node.sh: no token in"),
        (lambda host: with_token(host, "", 0o600), ["head"], "start-node.sh: no token in"),
        (lambda host: with_token(host, "secret", 0o644), ["head"], "start-node.sh: others may read"),
        (lambda host: (host / "ray").mkdir(mode=0o755), ["head"], "start-node.sh: others may write to {host}/ray; chmod 700 it"),
        (lambda host: os.symlink(mkdtemp(dir=host), host / "ray"), ["head"], "start-node.sh: others may write to {host}/ray"),
        (lambda host: (host / "project/.venv/bin/ray").unlink(), ["head"], "start-node.sh: "),
        (lambda host: None, [], "start-node.sh: usage:"),
        (lambda host: None, ["helper"], "start-node.sh: usage:"),
        (lambda host: None, ["worker"], "start-node.sh: usage:"),
        (lambda host: None, ["worker", "--block"], "start-node.sh: usage:"),
    ],
)
def test_what_cannot_be_started_safely_is_refused_in_a_line(
    host: Path, harm: Callable[[Path], object], arguments: list[str], told: str
) -> None:
    harm(host)
    done = start(host, *arguments)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(told.format(host=host))
    assert "install.sh" in done.stderr or (host / "project/.venv/bin/ray").exists()


def test_a_host_or_a_place_where_ray_would_not_run_is_refused(host: Path) -> None:
    few_files = start(host, "head", limits=["prlimit", "--nofile=256:256"])
    spaced = start(host, "head", RAY_TMPDIR=str(host / "my ray"))
    (host / "project").rename(host / "my project")
    here = start(host, "head", project="my project")
    space = "start-node.sh: a space in"
    for done, told in ((few_files, "256 open files are allowed"), (spaced, space), (here, space)):
        assert (done.code, done.stdout, done.stderr.startswith(told)) == (2, "", True)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """Its hosts are started with start-node.sh."""
    with Rig(loudboxes=1) as rig:
        yield rig


def test_it_makes_one_cluster_that_sees_four_boards_beside_by_id(rig: Rig) -> None:
    done = rig.run(["python", "-m", "cluster.preflight", "--address", f"{HEAD}:6379", "--json"], timeout=120, check=False)
    report = json.loads(done.stdout[done.stdout.index("{") :])["checks"]
    assert done.returncode == 1  # the fake boards have no driver
    assert set(report) == {"head", "loudbox-1", "cluster"}
    host = {check["name"]: check for check in report["loudbox-1"]}
    assert host["boards for Ray"] == {"name": "boards for Ray", "status": "pass", "found": "TTNPU: 4", "fix": ""}
    assert host["clock"]["status"] == "pass"
    whole = {check["name"]: check for check in report["cluster"]}
    assert whole["meshes"]["found"] == "1; hosts: 2, 1 of them without boards"
    assert whole["packages"] == {"name": "packages", "status": "pass", "found": "alike on 2 hosts", "fix": ""}


def test_the_dashboard_answers_on_the_head_only_and_only_with_the_token(rig: Rig) -> None:
    def status(host: str, *arguments: str) -> str:
        ask = ["curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", *arguments]
        return rig.run(ask, host=host, check=False).stdout

    assert status("loudbox-1", f"http://{HEAD}:8265/api/version") == "000"
    here = "http://127.0.0.1:8265/api/version"
    assert status("head", here) == "401"
    token = Path(rig.home, ".ray", "auth_token").read_text()
    assert status("head", "-H", f"Authorization: Bearer {token}", here) == "200"


def test_the_file_that_prometheus_follows_names_every_node_and_each_serves_metrics(rig: Rig) -> None:
    def read(path: str) -> str:
        return rig.run(["cat", path]).stdout

    def targets() -> set[str]:
        return {target for group in json.loads(read(discovered)) for target in group["targets"]}

    discovered = f"{rig.directory}/ray/prom_metrics_service_discovery.json"
    wait_until(lambda: {f"{HEAD}:8080", f"{LOUDBOX}:8080"} <= targets(), 30)  # Ray writes it every 5 s
    config = yaml.safe_load(read(f"{rig.directory}/ray/session_latest/metrics/prometheus/prometheus.yml"))
    (followed,) = config["scrape_configs"][0]["file_sd_configs"][0]["files"]
    assert read(followed) == read(discovered)
    for host in (HEAD, LOUDBOX):
        assert "# TYPE ray_" in rig.run(["curl", "-s", "-m", "5", f"http://{host}:8080/metrics"]).stdout


@pytest.mark.slow
def test_a_node_with_another_token_cannot_join(rig: Rig) -> None:
    line = ["timeout", "60", "env", f"RAY_AUTH_TOKEN={'0' * 64}", str(ROOT / "cluster/start-node.sh"), "worker", HEAD]
    refused = rig.run(line, host="loudbox-1", timeout=90, check=False)
    assert refused.returncode != 0
    assert "InvalidAuthToken" in refused.stdout + refused.stderr
