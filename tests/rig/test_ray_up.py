"""`ray up` as the operator's manual says it, over real SSH, from a machine of its own, by an account that is not root."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

import pyarrow.parquet as pq
import pytest

from tests.cluster.fake_host import kernel_compiler
from tests.commands import ROOT
from tests.rig.rack import PROJECT, Rack
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OPERATOR, HEAD, SECOND, OFF = "10.77.0.9", "10.77.0.1", "10.77.0.2", "10.77.0.3"
MARKED = {"head_ip: 10.0.0.1": f"head_ip: {HEAD}", "[10.0.0.2, 10.0.0.3, 10.0.0.4]": f"[{OFF}, {SECOND}]"}
STATUS = "ray exec cluster/loudboxes.yaml 'RAY_AUTH_MODE=token ~/loudbox-vit/.venv/bin/ray status'"


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    directory = tmp_path_factory.mktemp("rack")
    if missing := [program for program in ("/usr/sbin/sshd", "rsync") if not shutil.which(program)]:
        pytest.fail(f"install Debian's openssh-server and rsync: {missing} not found")
    with Rack(directory) as rack:
        rack.add("operator", OPERATOR)
        (rack.shared / "sfpi").mkdir()
        sfpi_version = kernel_compiler(rack.shared / "sfpi", f"http://{OPERATOR}:8000")
        for name, address in (("loudbox-1", HEAD), ("loudbox-2", SECOND)):
            rack.add(name, address)
            rack.install(name, sfpi_version)
        rack.start("operator", f"exec python -m http.server --directory {rack.shared}/sfpi 8000", stderr=subprocess.DEVNULL)
        rack.copy_project("operator", "~/project")
        config = (ROOT / "cluster/loudboxes.yaml").read_text()
        for line, own in MARKED.items():
            assert line in config
            config = config.replace(line, own)
        (rack.shared / "loudboxes.yaml").write_text(config)
        token = "ray get-auth-token --generate >/dev/null && chmod 600 ~/.ray/auth_token"
        rack.check("operator", f"cp {rack.shared}/loudboxes.yaml project/cluster && {token}")
        yield rack


def operate(rack: Rack, command: str) -> str:
    return rack.check("operator", f"cd project && {command}", 300)


def all_boards(rack: Rack) -> bool:
    return "0.0/8.0 TTNPU" in rack.run("operator", f"cd project && {STATUS}")[1]


def test_ray_up_installs_and_starts_the_head_and_every_host_that_is_on(rack: Rack) -> None:
    assert f"installed in {PROJECT}/.venv" in operate(rack, "ray up --yes cluster/loudboxes.yaml")
    compiler = f"{PROJECT}/.venv/lib/python3*/site-packages/ttnn/runtime/sfpi/compiler/bin/riscv-tt-elf-g++"
    assert rack.run("loudbox-1", f"test -x {compiler}")[0] == 0
    wait_until(lambda: all_boards(rack))
    assert rack.run("loudbox-2", f"test -x {compiler}")[0] == 0


def test_a_host_that_is_off_is_named_in_rays_status(rack: Rack) -> None:
    status = operate(rack, STATUS)
    assert f"{OFF}: local.cluster.node, waiting-for-ssh" in status
    assert f"{SECOND}: local" not in status


def test_preflight_on_the_head_asks_every_host(rack: Rack) -> None:
    command = f"cd loudbox-vit && . .venv/bin/activate && python -m cluster.preflight --address auto --shared {rack.shared}"
    code, out = rack.run("loudbox-1", command)
    assert code == 1  # the boards here have no driver
    assert re.search(r"pass +meshes +2; hosts: 2\b", out), out
    assert re.search(r"pass +shared storage", out), out


def test_a_job_goes_through_the_dashboards_tunnel(rack: Rack) -> None:
    tunnel = rack.start("operator", "cd project && exec ray dashboard cluster/loudboxes.yaml", stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: rack.run("operator", "curl -s -o /dev/null http://localhost:8265")[0] == 0)
        job = "jobs.imagenet --data jobs/sample/images --model jobs/sample/model --device cpu"
        job += f" --out {rack.shared}/run-1"
        server = "export RAY_API_SERVER_ADDRESS=http://localhost:8265"
        operate(rack, f"{server}; ray job submit --working-dir . -- python -m {job}")
        assert "nothing to do" in operate(rack, f"{server}; python -m cluster.submit {job} --resume")
    finally:
        tunnel.terminate()
    (row,) = pq.read_table(rack.shared / "run-1/report/summary.parquet").to_pylist()
    assert (row["images"], row["top1"]) == (500, 0.97)


def test_a_second_ray_up_brings_a_change_to_every_host(rack: Rack) -> None:
    operate(rack, "echo '# changed' >> jobs/report.py && ray up --yes cluster/loudboxes.yaml")
    for host in ("loudbox-1", "loudbox-2"):
        last_line = partial(rack.run, host, "tail -n 1 loudbox-vit/jobs/report.py")
        wait_until(lambda last_line=last_line: last_line()[1] == "# changed\n")  # type: ignore[misc]
    wait_until(lambda: all_boards(rack))


def test_ray_down_leaves_nothing_running(rack: Rack) -> None:
    ssh = "ssh -o StrictHostKeyChecking=accept-new"
    stop = f"for host in {OFF} {SECOND}; do {ssh} loudbox@$host loudbox-vit/.venv/bin/ray stop; done"
    out = operate(rack, f"ray down --yes cluster/loudboxes.yaml && {stop}")
    for host in ("loudbox-1", "loudbox-2"):
        assert not [line for line in rack.processes(host) if "ray" in line.lower()], out
