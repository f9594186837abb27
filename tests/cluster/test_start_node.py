"""start-node.sh: what it refuses, what it hands to `ray start`, and two machines that it makes one cluster."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.commands import prepare_config

from jobs.running import machine
from tests.cluster.fake_host import put
from tests.commands import ROOT
from tests.rig.machine import Machine, Switch
from tests.rig.rack import BOARDS

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "cluster/loudboxes.yaml").read_text())
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_SECONDS = 120
HEAD, LOUDBOX = "10.77.0.1", "10.77.0.2"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A home with a token and a project whose `ray` only tells what it was called with."""
    tell = '#!/bin/sh\nfor word in "$@"; do echo "$word"; done\nenv | grep -E "^(RAY_|TT_|PYTHONUTF8)"\n'
    put(tmp_path / "project/.venv/bin/ray", tell).chmod(0o755)
    (tmp_path / "project/cluster").symlink_to(ROOT / "cluster")
    put(tmp_path / "home/.ray/auth_token", secrets.token_hex(32)).chmod(0o600)
    return tmp_path


def start(host: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": PATH, "HOME": str(host / "home"), "RAY_TMPDIR": str(host / "ray"), **environment}
    line = [host / "project/cluster/start-node.sh", *arguments]
    return subprocess.run(line, env=own, capture_output=True, text=True, timeout=20, check=False)


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


def linked(host: Path) -> None:
    (host / "elsewhere").mkdir(mode=0o700)
    (host / "ray").symlink_to(host / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "arguments", "told"),
    [
        (lambda host: (host / "home/.ray/auth_token").unlink(), ["head"], "start-node.sh: no token in"),
        (lambda host: with_token(host, "", 0o600), ["head"], "start-node.sh: no token in"),
        (lambda host: with_token(host, "secret", 0o644), ["head"], "start-node.sh: others may read"),
        (lambda host: (host / "ray").mkdir(mode=0o755), ["head"], "start-node.sh: others may write to {host}/ray; chmod 700 it"),
        (linked, ["head"], "start-node.sh: others may write to {host}/ray; chmod 700 it"),
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
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(told.format(host=host))
    assert "install.sh" in done.stderr or (host / "project/.venv/bin/ray").exists()


def test_a_path_with_a_space_in_which_ray_starts_no_workers_is_refused(host: Path) -> None:
    assert start(host, "head", RAY_TMPDIR=str(host / "my ray")).stderr.startswith("start-node.sh: a space in")
    (host / "project").rename(host / "my project")
    done = subprocess.run([host / "my project/cluster/start-node.sh", "head"], env={"PATH": PATH, "HOME": str(host / "home")},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("start-node.sh: a space in")


def test_a_host_that_does_not_let_ray_run_says_why(host: Path) -> None:
    line = ["prlimit", "--nofile=256:256", str(host / "project/cluster/start-node.sh"), "head"]
    environment = {"PATH": PATH, "HOME": str(host / "home"), "RAY_TMPDIR": str(host / "ray")}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("256 open files are allowed")


class Cluster:
    """A head and a LoudBox started with the launcher's own commands."""

    def __init__(self, switch: Switch) -> None:
        self.home = switch.directory / "home"
        self.switch = switch
        self.machines: dict[str, Machine] = {}

    def boot(self, name: str, address: str) -> None:
        machine = self.machines[name] = Machine(self.switch, name, address, shm_bytes=400 * 2**20)
        self.switch.connect(machine)

    def begin(self, name: str, command: str, **environment: str) -> subprocess.Popen[str]:
        env = {"PATH": PATH, "HOME": str(self.home), "LANG": "C.UTF-8", "RAY_TMPDIR": str(self.switch.directory), **environment}
        return self.machines[name].start(["bash", "-c", command], ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, name: str, command: str, **environment: str) -> tuple[int, str]:
        process = self.begin(name, command, **environment)
        out, _ = process.communicate(timeout=START_SECONDS)
        return process.returncode, out

    def python(self, name: str, arguments: str) -> tuple[int, str]:
        return self.run(name, f"cd ~/loudbox-vit && .venv/bin/python {arguments}", RAY_AUTH_MODE="token")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    switch = Switch()
    cluster = Cluster(switch)
    try:
        put(cluster.home / ".ray/auth_token", secrets.token_hex(32)).chmod(0o600)
        sync_file_mounts(cluster.home)
        cluster.boot("head", HEAD)
        cluster.boot("loudbox-1", LOUDBOX)
        fake = switch.directory / "dev"
        code, out = cluster.run("loudbox-1", f"bash -c {shlex.quote(BOARDS)} fake-dev {fake}")
        assert code == 0, out
        for name, key in (("head", "head_start_ray_commands"), ("loudbox-1", "worker_start_ray_commands")):
            for command in CONFIG[key]:
                if "ray stop" not in command:  # these machines are fresh
                    code, out = cluster.run(name, command, RAY_HEAD_IP=HEAD)
                    assert code == 0, out
        yield cluster
    finally:
        for machine in cluster.machines.values():
            machine.kill()
        switch.close()


def sync_file_mounts(home: Path) -> None:
    """What `ray up` copies to a host and makes there: the project, what install.sh installs, and the filled-in config."""
    for there, here in CONFIG["file_mounts"].items():
        target = home / there.removeprefix("~/")
        if not here.startswith("~"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(ROOT / here)
    (home / "loudbox-vit/.venv").symlink_to(sys.prefix)
    provider = CONFIG["provider"] | {"head_ip": HEAD, "worker_ips": []}
    auth = CONFIG["auth"] | {"ssh_private_key": str(put(home / "key"))}
    filled = prepare_config(CONFIG | {"provider": provider, "auth": auth})
    put(home / "ray_bootstrap_config.yaml", json.dumps(filled))


def test_the_launchers_commands_make_one_cluster_that_sees_four_boards_beside_by_id(cluster: Cluster) -> None:
    code, out = cluster.python("head", f"-m cluster.preflight --address {HEAD}:6379 --json")
    report = json.loads(out[out.index("{") :])["checks"]
    assert code == 1  # the fake boards have no driver
    assert set(report) == {"head", "loudbox-1", "cluster"}
    host = {check["name"]: check for check in report["loudbox-1"]}
    assert host["boards for Ray"] == {"name": "boards for Ray", "status": "pass", "found": "TTNPU: 4", "fix": ""}
    assert host["clock"]["status"] == "pass"
    whole = {check["name"]: check for check in report["cluster"]}
    assert whole["meshes"]["found"] == "1; hosts: 2, 1 of them without boards"
    assert whole["packages"] == {"name": "packages", "status": "pass", "found": "alike on 2 hosts", "fix": ""}


def test_the_dashboard_answers_on_the_head_only_and_only_with_the_token(cluster: Cluster) -> None:
    ask = "curl -s -o /dev/null -m 5 -w '%{http_code}'"
    assert cluster.run("loudbox-1", f"{ask} http://{HEAD}:8265/api/version")[1] == "000"
    assert cluster.run("head", f"{ask} http://127.0.0.1:8265/api/version")[1] == "401"
    token = "Authorization: Bearer $(cat ~/.ray/auth_token)"
    assert cluster.run("head", f'{ask} -H "{token}" http://127.0.0.1:8265/api/version')[1] == "200"


def test_the_file_that_prometheus_follows_names_every_node_and_each_serves_metrics(cluster: Cluster) -> None:
    temporary = f"{cluster.switch.directory}/ray"
    code, out = cluster.run("head", f"cat {temporary}/prom_metrics_service_discovery.json")
    assert code == 0, out
    targets = {target for group in json.loads(out) for target in group["targets"]}
    assert {f"{HEAD}:8080", f"{LOUDBOX}:8080"} <= targets
    config = yaml.safe_load(cluster.run("head", f"cat {temporary}/session_latest/metrics/prometheus/prometheus.yml")[1])
    (followed,) = config["scrape_configs"][0]["file_sd_configs"][0]["files"]
    assert cluster.run("head", f"cat {followed}")[1] == out
    for host in (HEAD, LOUDBOX):
        assert "# TYPE ray_" in cluster.run("head", f"curl -s -m 5 http://{host}:8080/metrics")[1]


@pytest.mark.slow
def test_a_node_with_another_token_cannot_join(cluster: Cluster) -> None:
    other = put(cluster.home / "other_token", secrets.token_hex(32))
    other.chmod(0o600)
    cluster.boot("stranger", "10.77.0.3")
    join = f"timeout 60 ~/loudbox-vit/cluster/start-node.sh worker {HEAD}"
    code, out = cluster.run("stranger", join, RAY_AUTH_TOKEN_PATH=str(other))
    assert code != 0
    assert "InvalidAuthToken" in out
