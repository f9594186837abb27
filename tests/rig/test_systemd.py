"""The units under a real systemd: a head and a worker start, are started again, find each other again, and stop."""

import secrets
import shutil
import time
from collections.abc import Iterator

import pytest

from tests.cluster.fake_host import kernel_compiler
from tests.rig.rack import Rack
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROJECT = "/opt/loudbox-vit"
HEAD = "10.77.0.1"
UNITS = {"loudbox-1": "loudbox-head.service", "loudbox-2": "loudbox-worker.service"}


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    if not shutil.which("/lib/systemd/systemd"):
        pytest.fail("install Debian's systemd")
    with Rack(tmp_path_factory.mktemp("rack")) as rack:
        (rack.shared / "sfpi").mkdir()
        sfpi_version = kernel_compiler(rack.shared / "sfpi", f"file://{rack.shared}/sfpi")
        token = secrets.token_hex(32)
        for number, name in enumerate(UNITS, 1):
            rack.add(name, f"10.77.0.{number}")
            rack.install(name, sfpi_version, project=PROJECT)
            rack.copy_project(name, PROJECT)
            rack.check(name, f"mkdir ~/.ray && (umask 077; echo -n {token} > ~/.ray/auth_token)")
            rack.boot(name)
        yield rack


def boards(rack: Rack) -> str:
    return rack.run("loudbox-1", f"{PROJECT}/.venv/bin/ray status --address {HEAD}:6379 | grep TTNPU")[1].strip()


def test_the_manuals_commands_start_both_hosts(rack: Rack) -> None:
    for name, unit in UNITS.items():
        rack.check(name, f"{PROJECT}/cluster/install.sh")
        rack.as_root(name, f"echo HEAD={HEAD} > /etc/loudbox-vit.env && chmod 600 /etc/loudbox-vit.env")
        rack.as_root(name, f"cp {PROJECT}/cluster/systemd/{unit} /etc/systemd/system/")
        rack.systemctl(name, f"enable --now {unit}")
    wait_until(lambda: boards(rack) == "0.0/8.0 TTNPU")


def test_a_worker_whose_scheduler_is_killed_is_started_again(rack: Rack) -> None:
    rack.as_root("loudbox-2", "pkill -9 -f raylet/raylet")
    wait_until(lambda: int(rack.systemctl("loudbox-2", "show -P NRestarts loudbox-worker").strip()) >= 1)
    wait_until(lambda: boards(rack) == "0.0/8.0 TTNPU")


def test_workers_join_a_head_that_was_restarted(rack: Rack) -> None:
    rack.systemctl("loudbox-1", "restart loudbox-head")
    wait_until(lambda: boards(rack) == "0.0/8.0 TTNPU")


def test_a_drained_worker_stays_away_until_its_unit_is_restarted(rack: Rack) -> None:
    started = rack.systemctl("loudbox-2", "show -P NRestarts loudbox-worker")
    drain = "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message maintenance"
    there = "export RAY_AUTH_MODE=token RAY_TMPDIR=/tmp/ray-$(id -u)"
    rack.check("loudbox-2", f"cd {PROJECT} && . .venv/bin/activate && {there} && {drain}")
    wait_until(lambda: boards(rack) == "0.0/4.0 TTNPU")
    time.sleep(30)  # a unit that is started again would be back
    assert boards(rack) == "0.0/4.0 TTNPU"
    assert rack.systemctl("loudbox-2", "show -P NRestarts loudbox-worker") == started
    rack.systemctl("loudbox-2", "restart loudbox-worker")
    wait_until(lambda: boards(rack) == "0.0/8.0 TTNPU")


def test_stopping_a_unit_leaves_nothing_running(rack: Rack) -> None:
    for name, unit in UNITS.items():
        rack.systemctl(name, f"stop {unit}")
    for name in UNITS:
        assert not [line for line in rack.processes(name) if "ray" in line.lower()]
