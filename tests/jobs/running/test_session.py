"""Joining a Ray cluster: what is said of an address that does not answer, and whose it was."""

import os
import re
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from jobs.running.session import ray_session
from tests.commands import run_module
from tests.conftest import RayCluster
from vit_actor.errors import UserError


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nohost", "ray://127.0.0.1:1"])
@pytest.mark.parametrize("from_environment", [True, False])
def test_an_address_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch, address: str, from_environment: bool) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if from_environment:
        monkeypatch.setenv("RAY_ADDRESS", address)
    said = f"RAY_ADDRESS={address}" if from_environment else f"--address {address}"
    with pytest.raises(UserError, match=f"^{re.escape(said)}: ") as refused, ray_session(None if from_environment else address):
        pass
    assert ("--address" in str(refused.value)) is not from_environment


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:8265", "of the head, not the dashboard's, such as 10.0.0.1:6379"),
        ("ray://head:10001", "of the head, not Ray Client's address, such as 10.0.0.1:6379"),
        ("::1", "expected host:port of the head, such as 10.0.0.1:6379 or [fd00::1]:6379"),
        ("[::1]:1", "no Ray cluster answers there"),
        ("web", "what answers there is no head; the dashboard and Ray's other servers have ports of their own"),
        ("silent", "no Ray cluster answers there"),
    ],
)
def test_what_is_no_heads_address_is_told_within_seconds(address: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.running.session.CONNECT_SECONDS", 1.0)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as web, socket.create_server(("127.0.0.1", 0)) as silent:
        Thread(target=web.serve_forever, daemon=True).start()
        ports = {"web": web.server_port, "silent": silent.getsockname()[1]}
        given = f"127.0.0.1:{ports[address]}" if address in ports else address
        with pytest.raises(UserError, match=re.escape(told)), ray_session(given):
            pass
        web.shutdown()


def test_a_setting_at_which_rays_core_would_end_the_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_record_ref_creation_sites", "false")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "soon")
    with pytest.raises(UserError, match="RAY_memory_monitor_refresh_ms in the environment"), ray_session(None):
        pass


@pytest.mark.slow  # Ray asks for 20 s
@pytest.mark.parametrize(
    ("token", "told"),
    [({}, "set RAY_AUTH_MODE=token"), ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x" * 40}, "refuses this token")],
)
def test_a_cluster_that_wants_a_token_says_so(ray_cluster: RayCluster, tmp_path: Path, token: dict[str, str], told: str) -> None:
    given = {name: value for name, value in ray_cluster.environment.items() if not name.startswith("RAY_AUTH")} | token
    job = ["jobs.synthetic", "--device", "simulated", "--model", "jobs/sample/model", "--out", str(tmp_path)]
    done = run_module(*job, "--address", ray_cluster.address, environment=given)
    assert (done.code, told in done.stderr) == (2, True)


def test_a_proxy_is_not_asked_for_this_machine_nor_for_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "intranet")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(UserError), ray_session("127.0.0.2:1"):
        pass
    assert os.environ["no_proxy"] == "intranet,127.0.0.1,localhost,127.0.0.2"
    assert os.environ["NO_PROXY"] == "127.0.0.1,localhost,127.0.0.2"
