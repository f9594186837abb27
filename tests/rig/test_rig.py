"""The rig is a cluster of distinct hosts, closed to strangers, and nothing of it remains."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.rig import Rig
from tests.waiting import wait_until

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


def told(process: psutil.Process) -> str:
    """Its command line and environment; empty once it is gone."""
    with suppress(psutil.Error):
        return " ".join([*process.cmdline(), *(f"{name}={value}" for name, value in process.environ().items())])
    return ""


def traces(directory: str) -> list[str]:
    """What is left on this machine of the rig with that directory: its files, mounts and processes."""
    left = [directory] if Path(directory).exists() else []
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if directory in line]
    return left + [str(process) for process in psutil.process_iter() if directory in told(process)]


def visible_network() -> list[str]:
    """Links and named namespaces of this machine."""
    commands = (["ip", "netns"], ["ip", "-br", "link"])
    listed = [subprocess.run(command, capture_output=True, text=True, timeout=10).stdout for command in commands]
    return [line.split()[0] for text in listed for line in text.splitlines()]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(loudboxes=2, helpers=1) as rig:
        yield rig


def test_every_host_has_an_address_a_name_and_its_declared_resources(rig: Rig) -> None:
    hosts = {node["NodeManagerHostname"]: node for node in drive(rig, "print(json.dumps(ray.nodes()))") if node["Alive"]}

    declared = {name: [node["Resources"].get(what, 0) for what in ("TTNPU", "CPU")] for name, node in hosts.items()}
    assert declared == {"head": [0, 0], "helper-1": [0, 2], "loudbox-1": [4, 2], "loudbox-2": [4, 2]}
    assert {node["NodeManagerAddress"] for node in hosts.values()} == {f"10.77.0.{n}" for n in (1, 2, 3, 4)}
    assert {node["Resources"]["object_store_memory"] for node in hosts.values()} == {200 * 2**20}


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


@pytest.mark.parametrize("env", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}], ids=["no token", "a wrong one"])
def test_a_client_without_the_token_is_refused(rig: Rig, env: dict[str, str]) -> None:
    client = ["python", "-c", "import ray; ray.init(); print('let in')"]
    refused = rig.run(client, host="loudbox-1", env=env | {"RAY_NUM_REDIS_GET_RETRIES": "2"}, timeout=LIMIT, check=False)

    assert refused.returncode != 0
    assert "let in" not in refused.stdout
    assert "uthenticat" in refused.stderr


def test_each_mesh_is_a_hosts_four_boards_a_late_ones_too_and_its_loss_is_noticed(rig: Rig) -> None:
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

    command = [*CLI, "bash", "-c", "ray status >&2 && echo $RAY_TMPDIR && exit 7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)

    assert done.returncode == 7
    assert "/tmp/rig-" in done.stdout
    assert Path(done.stdout.strip()) != rig.directory
    assert traces(done.stdout.strip()) == []
    assert visible_network() == before
    assert traces(str(rig.directory)) != []  # the other rig is still there, and this is how one sees it
    assert drive(rig, "print(json.dumps(len(ray.nodes())))") >= 4


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_the_rigs_own_process_while_a_host_starts_leaves_nothing(how: signal.Signals) -> None:
    before = visible_network()
    command = psutil.Popen([*CLI, "true"])

    def starting() -> set[str]:
        """The rig's directory, once Ray starts on its head."""
        started = [told(process) for process in command.children(recursive=True)]
        return {found[1] for text in started if "--node-ip-address" in text and (found := re.search(r"(/tmp/rig-\w+)", text))}

    wait_until(starting, LIMIT, every=0.05)
    (directory,) = starting()
    assert traces(directory) != []

    command.send_signal(how)
    command.wait(LIMIT)

    wait_until(lambda: traces(directory) == [], LIMIT)
    assert visible_network() == before


def test_without_its_tools_it_names_the_packages_to_install() -> None:
    done = subprocess.run([*CLI, "true"], env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=LIMIT)

    assert done.returncode == 2
    assert "iproute2" in done.stderr
    assert done.stderr.count("\n") == 1
