"""The rig is a cluster of distinct hosts, closed to strangers, and nothing of it remains."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig

pytestmark = pytest.mark.slow  # as are all tests that run on it

LIMIT = 60.0
CLI = [sys.executable, "-m", "tests.rig", "--loudboxes", "0", "--"]

CONNECT = "import json, os, socket, time, ray\nray.init(log_to_driver=False)\n"

MESHES = """
@ray.remote(num_cpus=0, resources={"TTNPU": 4})
class Mesh:
    def place(self):
        return socket.gethostname(), os.environ.get("TT_VISIBLE_DEVICES")

def places(count):
    meshes = [Mesh.remote() for _ in range(count)]
    return sorted(ray.get([mesh.place.remote() for mesh in meshes], timeout=40))
"""

LOSS = """
print(json.dumps(places(3)), flush=True)
limit = time.monotonic() + 40
while time.monotonic() < limit:
    if any(node["NodeManagerHostname"] == "late" and not node["Alive"] for node in ray.nodes()):
        print("noticed", flush=True)
        break
    time.sleep(0.1)
"""


def drive(rig: Rig, code: str) -> Any:
    """Run a Ray driver on the head; what its last line says in JSON."""
    return json.loads(rig.run(["python", "-c", CONNECT + code], timeout=LIMIT).stdout.splitlines()[-1])


def traces(directory: str) -> list[str]:
    """What is left on this machine of the rig with that directory: its files, mounts and processes."""
    left = [directory] if Path(directory).exists() else []
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if directory in line]
    for process in Path("/proc").glob("[0-9]*"):
        text = _read(process / "cmdline") + _read(process / "environ")
        if directory in text:
            left.append(f"{process.name}: {text[:80]}")
    return left


def visible_network() -> list[str]:
    """Links and named namespaces of this machine."""
    listed = [
        subprocess.run(["ip", *what], capture_output=True, text=True, timeout=10).stdout for what in (["netns"], ["-br", "link"])
    ]
    return [line.split()[0] for text in listed for line in text.splitlines()]


def descendants(pid: int) -> str:
    """Command lines and environments of the processes a process started, and of theirs."""
    text = ""
    for process in Path("/proc").glob("[0-9]*"):
        if _read(process / "stat").rpartition(") ")[2].split(" ")[1:2] == [str(pid)]:
            text += _read(process / "cmdline") + _read(process / "environ") + descendants(int(process.name))
    return text


def _read(path: Path) -> str:
    """Empty once the process is gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(loudboxes=2, helpers=1) as rig:
        yield rig


def test_every_host_has_an_address_a_name_and_its_declared_resources(rig: Rig) -> None:
    nodes = drive(rig, "print(json.dumps(ray.nodes()))")

    hosts = {node["NodeManagerHostname"]: node for node in nodes if node["Alive"]}
    assert sorted(hosts) == ["head", "helper-1", "loudbox-1", "loudbox-2"]
    assert len({node["NodeManagerAddress"] for node in hosts.values()}) == 4
    assert all(node["NodeManagerAddress"].startswith("10.77.") for node in hosts.values())
    assert {name: node["Resources"].get("TTNPU", 0) for name, node in hosts.items()} == {
        "head": 0,
        "helper-1": 0,
        "loudbox-1": 4,
        "loudbox-2": 4,
    }
    assert {name: node["Resources"].get("CPU", 0) for name, node in hosts.items()} == {
        "head": 0,
        "helper-1": 2,
        "loudbox-1": 2,
        "loudbox-2": 2,
    }
    assert {node["Resources"]["object_store_memory"] for node in hosts.values()} == {200 * 2**20}


def test_two_meshes_land_on_two_hosts_and_each_sees_its_four_boards(rig: Rig) -> None:
    places = drive(rig, MESHES + "print(json.dumps(places(2)))")

    assert places == [["loudbox-1", "0,1,2,3"], ["loudbox-2", "0,1,2,3"]]


def test_hosts_share_files_but_neither_processes_nor_shared_memory(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("on every host")
    look = f"ls /dev/shm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat {tmp_path}/shared"

    for name in ("loudbox-1", "loudbox-2"):
        rig.run(["touch", f"/dev/shm/of-{name}"], host=name)
    seen = {name: rig.run(["bash", "-c", look], host=name).stdout for name in ("loudbox-1", "loudbox-2")}

    for name, other in (("loudbox-1", "loudbox-2"), ("loudbox-2", "loudbox-1")):
        assert f"of-{name}\n" in seen[name]
        assert f"of-{other}\n" not in seen[name]
        assert f"--node-ip-address={rig.hosts[name].address}" in seen[name]
        assert f"--node-ip-address={rig.hosts[other].address}" not in seen[name]
        assert seen[name].endswith("on every host")


def test_hosts_reach_each_other_by_name_and_unknown_names_fail_at_once(rig: Rig) -> None:
    lookup = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"

    assert rig.run(["python", "-c", lookup, "loudbox-2"], host="loudbox-1").stdout.strip() == rig.hosts["loudbox-2"].address
    assert rig.run(["python", "-c", lookup, "elsewhere.example"], check=False, timeout=10).returncode == 1


def test_a_client_with_no_token_or_a_wrong_one_is_refused(rig: Rig) -> None:
    for env in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
        client = "import ray; ray.init(); print('let in')"
        refused = rig.run(
            ["python", "-c", client], host="loudbox-1", env=env | {"RAY_NUM_REDIS_GET_RETRIES": "2"}, timeout=LIMIT, check=False
        )

        assert refused.returncode != 0
        assert "let in" not in refused.stdout
        assert "uthenticat" in refused.stderr


def test_the_dashboard_listens_on_the_head_alone_and_asks_for_the_token(rig: Rig) -> None:
    listening = "import socket; socket.create_connection(('head', 8265), timeout=5)"
    get = "import os, urllib.request as u; u.urlopen(os.environ['RAY_API_SERVER_ADDRESS'] + '/api/jobs/', timeout=20)"

    assert "refused" in rig.run(["python", "-c", listening], host="loudbox-1", check=False).stderr
    assert "401" in rig.run(["python", "-c", get], check=False).stderr


def test_a_host_that_joins_late_gets_work_and_its_loss_is_noticed(rig: Rig) -> None:
    rig.add_host("late", cpus=1)
    driver = rig.start(["python", "-c", CONNECT + MESHES + LOSS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert driver.stdout

    # The driver bounds its own waits, so this ends whatever happens.
    places = json.loads(next(line for line in driver.stdout if line.startswith("[")))
    rig.kill_host("late")
    rest = driver.communicate(timeout=LIMIT)[0]

    assert places == [["late", "0,1,2,3"], ["loudbox-1", "0,1,2,3"], ["loudbox-2", "0,1,2,3"]]
    assert "noticed" in rest
    assert "late" not in rig.hosts


def test_a_command_that_fails_or_lasts_too_long_raises_with_its_output(rig: Rig) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        rig.run(["bash", "-c", "echo why; exit 3"])
    with pytest.raises(subprocess.TimeoutExpired) as late:
        rig.run(["bash", "-c", "echo begun; sleep 1000"], timeout=1)

    assert failed.value.returncode == 3
    assert failed.value.__notes__ == ["why\n"]
    assert late.value.__notes__ == ["begun\n"]
    assert "sleep 1000" not in rig.run(["bash", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout


def test_a_second_rig_runs_beside_the_first_and_passes_on_its_commands_exit_code(rig: Rig) -> None:
    before = visible_network()
    report = "ray status >&2 && echo $RAY_TMPDIR && exit 7"

    done = subprocess.run([*CLI, "bash", "-c", report], capture_output=True, text=True, timeout=LIMIT)

    assert done.returncode == 7
    assert "/tmp/rig-" in done.stdout
    assert Path(done.stdout.strip()) != rig.directory
    assert traces(done.stdout.strip()) == []
    assert visible_network() == before
    assert traces(str(rig.directory)) != []  # the other rig is still there, and this is how one sees it
    assert drive(rig, "print(json.dumps(len(ray.nodes())))") >= 4


# The last to use the shared rig, for it leaves it without its helper.
def test_a_host_that_shuts_down_says_so_to_the_cluster(rig: Rig) -> None:
    rig.stop_host("helper-1")

    nodes = drive(rig, "print(json.dumps(ray.nodes()))")
    (helper,) = (node for node in nodes if node["NodeManagerHostname"] == "helper-1")
    assert not helper["Alive"]
    assert "SIGTERM" in helper["DeathReasonMessage"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_the_rigs_own_process_while_a_host_starts_leaves_nothing(how: signal.Signals) -> None:
    before = visible_network()
    command = subprocess.Popen([*CLI, "true"])
    limit = time.monotonic() + LIMIT
    while not (found := re.search(r"--node-ip-address.*?RAY_TMPDIR=(/tmp/rig-[^\0]+)", descendants(command.pid), re.DOTALL)):
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert traces(found[1]) != []

    command.send_signal(how)
    command.wait(LIMIT)

    while (left := traces(found[1])) and time.monotonic() < limit:
        time.sleep(0.1)
    assert left == []
    assert visible_network() == before


def test_without_its_tools_it_names_the_packages_to_install() -> None:
    done = subprocess.run([*CLI, "true"], env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=LIMIT)

    assert done.returncode == 2
    assert "iproute2" in done.stderr
    assert done.stderr.count("\n") == 1
