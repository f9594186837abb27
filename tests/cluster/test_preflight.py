"""Preflight names each fault of a host with its fix, and its exit code says whether there was one."""

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cluster.checks import Check, Host, check_cluster, check_host, clock
from cluster.hardware import parse_snapshot, read_hardware
from cluster.preflight import main
from cluster.probe import INSTALLATIONS, limits, open_mesh, read_host, read_marks, try_mesh
from tests.cluster.fake_host import FakeHost, install_tt_smi, put
from tests.commands import ROOT
from vit_actor.checkpoint import load_checkpoint
from vit_actor.device import Device
from vit_actor.opening import DeviceRequest
from vit_actor.simulated import SimulatedVit

Report = tuple[int, dict[str, dict[str, str]], dict[str, dict[str, str]]]


type Preflight = Callable[..., Report]


@pytest.fixture
def preflight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Preflight:
    """Run it on a fake host; exit code, the host's checks by name, the cluster's checks by name."""

    for name in (*INSTALLATIONS, "TT_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def run(host: FakeHost, *arguments: str, chips: int | None = 8, **smi: Any) -> Report:
        path = "/usr/bin:/bin"
        if chips is not None:
            path = f"{install_tt_smi(tmp_path / 'bin', chips=chips, card=host.card, **smi)}:{path}"
        monkeypatch.setenv("PATH", path)
        code = main(["--json", *arguments], root=host.write(tmp_path / "root"))
        report = json.loads(capsys.readouterr().out)
        whole = report["checks"].pop("cluster")
        (checks,) = report["checks"].values()
        assert report["ready"] == (code == 0)
        return code, {check["name"]: check for check in checks}, {check["name"]: check for check in whole}

    return run


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A LoudBox as it is read where there is no tt-smi."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return read_host(FakeHost().write(tmp_path))


def without_boards(host: Host, name: str) -> Host:
    return replace(host, name=name, hardware=replace(host.hardware, boards=(), on_pcie=0, driver=None))


DOWN = {"links": {5: "0xffff"}}
NONE_BEHIND_THE_FIRST = "none behind board 0100014211703010 (0000:01:00.0)"


def test_a_sound_loudbox_passes_and_only_bystanders_warn(preflight: Preflight) -> None:
    code, host, cluster = preflight(FakeHost())
    assert code == 0
    # by-id makes Ray count five until start-node.sh names the boards; this machine has too few cores for a mesh.
    assert [name for name, check in host.items() if check["status"] == "warn"] == ["boards for Ray"]
    assert {name for name, check in cluster.items() if check["status"] == "warn"} <= {"decoding"}
    assert host["boards"]["found"] == "4 n300"
    assert host["chips"]["found"] == "8"
    assert cluster["meshes"]["found"] == "1; hosts: 1, 0 of them without boards"


@pytest.mark.parametrize(
    ("host", "check", "status", "found", "fix"),
    [
        (FakeHost(disk="nfs4"), "kernel cache", "warn", "on nfs4", "TT_METAL_CACHE"),
        (FakeHost(boards=3, on_pcie=4), "boards", "fail", "3 n300, 4 on PCIe", "modprobe"),
        (FakeHost(boards=0, on_pcie=4, driver=None), "kernel driver", "fail", "not loaded", "tt-kmd"),
        (FakeHost(boards=3), "boards", "fail", "3 n300, 4 wanted", "--boards"),
        (FakeHost(card="n150"), "boards", "warn", "4 n150", "T3000"),
        (FakeHost(driver="1.33"), "kernel driver", "fail", "1.33", "1.34.0"),
        (FakeHost(driver="1.34.0"), "kernel driver", "warn", "1.34.0", "2.0.0"),
        (FakeHost(driver="1.34.0", iommu="DMA-FQ"), "kernel driver", "fail", "1.34.0", "2.0.0"),
        (FakeHost(driver="2.10.1-pre"), "kernel driver", "pass", "2.10.1-pre", ""),
        (FakeHost(firmware=("18.9.0.0",)), "firmware", "fail", "18.9.0.0", "tt-flash"),
        (FakeHost(firmware=("18.12.0.0", "19.2.0.0")), "firmware", "fail", "boards differ: 18.12.0.0, 19.2.0.0", "tt-flash"),
        (FakeHost(firmware=("",)), "firmware", "warn", "not seen: the driver reports none", "tt-kmd"),
        (FakeHost(huge_pages=0), "huge pages", "fail", "0 of 16", "tenstorrent-hugepages.service"),
        (FakeHost(mounted=False), "huge pages", "fail", "16 of 16, not mounted", "dev-hugepages\\x2d1G.mount"),
        (FakeHost(huge_pages=4), "huge pages", "warn", "4 of 16", "tenstorrent-hugepages.service"),
        (FakeHost(huge_pages=0, iommu="DMA"), "huge pages", "warn", "0 of 16; the IOMMU makes up for them", "tenstorrent"),
        (FakeHost(sfpi=False), "kernel compiler", "fail", "sfpi not found", "install.sh"),
        (FakeHost(memory_gib=16), "memory", "warn", "16 GiB, ", "--num-cpus"),
        (FakeHost(by_id=False), "boards for Ray", "pass", "TTNPU: 4, once Ray runs", ""),
        (FakeHost(), "boards for Ray", "warn", "TTNPU: 5, once Ray runs, but 4 boards", "start-node.sh"),
    ],
)
def test_each_fault_has_its_fix(preflight: Preflight, host: FakeHost, check: str, status: str, found: str, fix: str) -> None:
    code, checks, _ = preflight(host)
    assert (checks[check]["status"], bool(checks[check]["fix"])) == (status, status != "pass")
    assert checks[check]["found"].startswith(found)
    assert fix in checks[check]["fix"]
    assert code == 1 or status != "fail"


@pytest.mark.parametrize(
    ("host", "visible", "wanted", "smi", "check", "status", "found"),
    [
        (FakeHost(), "", 4, {"lost": (3,)}, "chips", "fail", "7 of 8: none behind board 0100014211703011 (0000:02:00.0)"),
        (FakeHost(), "", 4, {"chips": 6}, "chips", "fail", "6 of 8"),
        (FakeHost(), "", 4, DOWN, "chips", "fail", "no Ethernet link is up on board 0100014211703012 (n300 R)"),
        (FakeHost(), "", 4, DOWN | {"bundle": "19.8.2.0"}, "chips", "pass", "8"),  # which tells something else there
        (FakeHost(), "", 4, {"coords": "(0, 0, 0, 0)"}, "chips", "fail", "all 8 at coordinates (0, 0, 0, 0)"),
        (FakeHost(), "", 4, {"dram": False}, "chips", "fail", "DRAM of 8 did not come up"),
        (FakeHost(), "", 4, {"chips": None}, "chips", "warn", "not seen: tt-smi is not installed"),
        (FakeHost(), "", 4, {"heat": " 81.5"}, "chips", "warn", "8 of 8 too hot (81.5 C of 75)"),
        (FakeHost(), "", 4, {"heat": "N/A"}, "chips", "pass", "8"),
        (FakeHost(), "", 4, {"code": 1}, "chips", "warn", "not seen: tt-smi failed: no boards on PCIe answer"),
        (FakeHost(boards=1), "", 1, {"chips": 1}, "chips", "fail", f"1 of 2: {NONE_BEHIND_THE_FIRST}"),
        (FakeHost(boards=1, card="n150"), "", 1, {"chips": 1}, "chips", "pass", "1"),
        (FakeHost(card="n150"), "", 4, {"chips": 4}, "chips", "pass", "4"),
        (FakeHost(), "2", 1, {"chips": 2}, "boards", "pass", "1 n300 of 4, by TT_VISIBLE_DEVICES=2"),
        (FakeHost(), "2", 1, {}, "boards for Ray", "pass", "TTNPU: 1, once Ray runs"),
        (FakeHost(), "2", 1, {"chips": 1}, "chips", "fail", f"1 of 2: {NONE_BEHIND_THE_FIRST}"),
        (FakeHost(), "0,1,2,3", 4, {}, "boards", "pass", "4 n300"),
        (FakeHost(), "2", 4, {"chips": 2}, "boards", "fail", "1 n300 of 4, by TT_VISIBLE_DEVICES=2, 4 wanted"),
        (FakeHost(), "7", 1, {"chips": 2}, "boards", "fail", "none with a driver of 4, by TT_VISIBLE_DEVICES=7, 1 wanted"),
    ],
)
def test_each_board_and_its_chips_behind_ethernet_are_seen_or_said_to_be_unseen(
    preflight: Preflight, monkeypatch: pytest.MonkeyPatch,
    host: FakeHost, visible: str, wanted: int, smi: dict[str, Any], check: str, status: str, found: str,
) -> None:  # fmt: skip
    if visible:
        monkeypatch.setenv("TT_VISIBLE_DEVICES", visible)
    _, checks, _ = preflight(host, "--boards", str(wanted), **smi)
    assert (checks[check]["status"], checks[check]["found"]) == (status, found)


@pytest.mark.parametrize(("counted", "status"), [(5, "fail"), (4, "pass"), (1, "warn")])
def test_boards_that_ray_was_not_given_may_be_somebody_elses(sound: Host, counted: int, status: str) -> None:
    assert by_name(check_host(replace(sound, ray_boards=counted, visible=""), 4))["boards for Ray"].status == status


def test_a_lock_of_a_process_that_is_gone_is_named_and_no_other(preflight: Preflight, tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root / "proc/77/stat")
    locks = (("ARC_MSG", 0), ("CHIP_IN_USE_0_PCIe", 4242), ("CHIP_IN_USE_1_PCIe", 77), ("PCIE_DMA_1_PCIe", 4242), ("OTHER", 4242))
    for name, owner in locks:  # device/api/umd/device/utils/robust_mutex.hpp of tt-umd
        flag = 0 if name == "OTHER" else 0x5454554D444D5458
        put(root / f"dev/shm/TT_UMD_LOCK.{name}").write_bytes(struct.pack("40xQii", flag, owner, owner))
    put(root / "dev/shm/TT_UMD_LOCK.SHORT", "x")
    told = "TT_UMD_LOCK.CHIP_IN_USE_0_PCIe of process 4242, which has ended and 1 more"
    found = preflight(FakeHost())[1]["locks"]
    assert (found["status"], found["found"], "rm /dev/shm/TT_UMD_LOCK.*" in found["fix"]) == ("warn", told, True)


def test_what_makes_ttnn_another_than_the_installed_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("ttnn")
    assert spec
    assert spec.submodule_search_locations
    for name, place in zip(INSTALLATIONS, ("/opt/tt-metal", spec.submodule_search_locations[0], ""), strict=True):
        monkeypatch.setenv(name, place)
    monkeypatch.setenv("TT_METAL_MOCK_CLUSTER_DESC_PATH", "/some/mock.yaml")
    mock, other = [line for line in limits() if "TT_METAL" in line]
    assert "TT_METAL_MOCK_CLUSTER_DESC_PATH makes a stand-in look like chips" in mock
    assert other.startswith("TT_METAL_HOME=/opt/tt-metal is another tt-metal than ttnn's in ")
    assert other.endswith("; unset it in the environment of Ray's nodes")


@pytest.mark.parametrize(("boards", "code", "status"), [("4", 1, "fail"), ("0", 0, "pass")])
def test_a_host_without_boards_is_a_helper_and_alone_no_cluster(
    preflight: Preflight, boards: str, code: int, status: str
) -> None:
    found, host, cluster = preflight(FakeHost(boards=0, driver=None), "--boards", boards)
    assert list(host) == ["memory", "/dev/shm"]
    assert (found, cluster["meshes"]["status"]) == (code, status)
    assert cluster["decoding"]["found"].endswith("cores, no mesh to feed")


def test_storage_and_data_are_really_read_and_written_and_nothing_is_left(preflight: Preflight, tmp_path: Path) -> None:
    shared, file = tmp_path / "shared", put(tmp_path / "file")
    shared.mkdir()
    _, checks, _ = preflight(FakeHost(), "--shared", str(shared), "--data", str(ROOT / "jobs/sample/images"))
    assert checks["shared storage"]["status"] == "pass"
    assert list(shared.iterdir()) == []
    for name in ("mine", "spoilt"):
        put(shared / name, "mine")
    assert read_marks(str(shared), ["mine", "spoilt", "another's"]).found == "2 of 3 hosts' files are not there"
    assert (checks["data"]["status"], checks["data"]["found"]) == ("pass", "0/digit-1297.jpeg: 2,300 bytes")
    code, checks, _ = preflight(FakeHost(), "--shared", str(file / "below"), "--data", str(tmp_path / "nowhere"))
    assert (code, checks["shared storage"]["status"]) == (1, "fail")
    assert checks["data"]["found"] == f"{tmp_path}/nowhere: no such file or directory; check the path"


def test_the_table_shows_every_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    code = main(["--boards", "4"], root=FakeHost(huge_pages=0).write(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    row = next(i for i, line in enumerate(lines) if "huge pages" in line)
    assert lines[row].split() == ["FAIL", "huge", "pages", "0", "of", "16"]
    assert lines[row + 1].strip().startswith("-> install tenstorrent-tools")
    assert lines[-1].endswith(" 1 failed")


def test_hosts_must_agree_in_packages_and_are_compared_in_drivers(sound: Host) -> None:
    one = replace(sound, name="loudbox-1", versions=sound.versions | {"kernel": "6.8"})
    versions = one.versions | {"ray": "2.59.0", "kernel": "7.0"}
    other = replace(one, name="loudbox-2", versions=versions, hardware=replace(one.hardware, driver="2.3.0"))
    helper = without_boards(one, "helper-1")
    many = check_cluster([other, *(replace(helper, name=f"helper-{n}") for n in range(1, 6))], 4)
    assert by_name(many)["packages"].found == "ray 2.59.0 on loudbox-2, 2.60.0 on helper-1, helper-2, helper-3 and 2 more"
    checks = by_name(check_cluster([one, other, helper], 4))
    assert {name: (checks[name].status, checks[name].found) for name in ("packages", "platforms")} == {
        "packages": ("fail", "ray 2.60.0 on loudbox-1, helper-1, 2.59.0 on loudbox-2"),
        "platforms": (
            "warn",
            "kernel 6.8 on loudbox-1, helper-1, 7.0 on loudbox-2; driver 2.6.0 on loudbox-1, 2.3.0 on loudbox-2",
        ),
    }
    assert checks["meshes"].found == "2; hosts: 3, 1 of them without boards"


def test_decoding_cores_are_weighed_against_meshes_over_the_whole_cluster(sound: Host) -> None:
    loudbox = replace(sound, name="loudbox-1", cores=7)
    alone, helped = (
        by_name(check_cluster(hosts, 4))["decoding"] for hosts in ([loudbox], [loudbox, without_boards(loudbox, "helper-1")])
    )
    # 8 chips at 1,323 images/s times 1.1 ms of decoding make 11.64 cores, and one drives the mesh.
    assert alone.found == "7 cores of 13 for 10,584 images/s"
    assert "50% of the time" in alone.fix
    assert helped.status == "pass"


def test_without_ttnn_or_a_place_for_kernels_the_host_is_told_what_to_do(sound: Host) -> None:
    assert by_name(check_host(sound, 4))["ttnn"] == Check("ttnn", "pass", sound.versions["ttnn"])
    checks = by_name(check_host(replace(sound, versions={}, kernel_cache=None), 4))
    assert checks["ttnn"] == Check("ttnn", "fail", "not installed", "run cluster/install.sh")
    assert (checks["kernel cache"].status, checks["kernel cache"].found) == ("warn", "not seen")
    assert "TT_METAL_CACHE" in checks["kernel cache"].fix


@pytest.mark.parametrize(("helper", "chunks"), [(True, 4), (False, 8)])
def test_memory_is_weighed_to_the_byte(sound: Host, helper: bool, chunks: int) -> None:
    sound = replace(without_boards(sound, "helper-1") if helper else sound, cores=2)
    store = chunks * 512 * 224 * 224 * 3  # two chunks of 512 images a core, and four for a mesh
    wanted = store + 2 * 2**30 + 16 * 2**30 + (0 if helper else 8 * 2**30)  # a worker a core, huge pages, an actor

    def statuses(memory: int, shm: int) -> list[str]:
        host = replace(sound, hardware=replace(sound.hardware, memory_bytes=memory, shm_bytes=shm))
        checks = by_name(check_host(host, 4))
        return [checks["memory"].status, checks["/dev/shm"].status]

    assert statuses(wanted, store) == ["pass", "pass"]
    assert statuses(wanted - 1, store - 1) == ["warn", "fail"]


def test_a_clock_is_only_blamed_beyond_what_was_measured() -> None:
    told = [(0.1, 0.01), (-0.5, 0), (-0.8, 0.4), (-0.8, 0.01), (30.0, 0), (30.1, 0), (45.0, 0.5)]
    assert [clock(*each).status for each in told] == ["pass", "pass", "pass", "warn", "warn", "fail", "fail"]


def test_boards_are_read_in_order_of_their_numbers_and_where_there_is_nothing_nothing_is_read(tmp_path: Path) -> None:
    empty, hardware = read_hardware(tmp_path), read_hardware(FakeHost(boards=12).write(tmp_path))
    assert [board.index for board in hardware.boards] == list(range(12))
    assert hardware.entries == 13
    assert (empty.boards, empty.on_pcie, empty.driver, empty.memory_bytes) == ((), 0, None, 0)


@pytest.mark.parametrize("text", ["", "no boards found", "[]", "{"])
def test_a_snapshot_may_be_in_the_midst_of_text_and_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own and this module's are both ValueErrors
        parse_snapshot(text)
    assert parse_snapshot('{debug} warming up {"a": 1}\n{"device_info": [{"board_info": {}}]}\nbye').chips == 1


@pytest.fixture
def request_() -> DeviceRequest:
    return DeviceRequest.of(load_checkpoint(str(ROOT / "jobs/sample/model")), "t3000")


@pytest.mark.parametrize(("built", "told"), [(None, ""), (0, ", every kernel was cached"), (12, ", 12 kernels built and cached")])
def test_opening_a_mesh_checks_it_and_tells_how_many_kernels_were_built(
    request_: DeviceRequest, monkeypatch: pytest.MonkeyPatch, built: int | None, told: str
) -> None:
    def compile_and_tell(device: SimulatedVit) -> float:
        device.start |= {} if built is None else {"kernels_built": built}
        return 0.25

    monkeypatch.setattr(SimulatedVit, "compile", compile_and_tell)
    said = open_mesh(replace(request_, device="simulated", batch_size=8))
    assert re.fullmatch(rf"simulated T3000: .*: compiled in 0\.2 s, 32 images in 0\.\d{{4}} s, all 8 chips .*{told}", said)


@pytest.mark.parametrize(
    ("boards", "wanted", "opened"), [(4, "4", True), (8, "4", True), (3, "4", False), (2, "2", True), (0, "0", False)]
)
def test_a_mesh_is_opened_where_there_are_boards_for_one(
    preflight: Preflight, monkeypatch: pytest.MonkeyPatch, boards: int, wanted: str, opened: bool
) -> None:
    opens = Check("open mesh", "pass", "t3000 7.0")
    monkeypatch.setattr("cluster.preflight.try_mesh", lambda request, limit: replace(opens, found=f"{request.device} {limit}"))
    model = ("--model", str(ROOT / "jobs/sample/model"), "--open-limit", "7")
    _, checks, _ = preflight(FakeHost(boards=boards), "--boards", wanted, "--open", *model)
    assert checks.get("open mesh", {}).get("found") == ("t3000 7.0" if opened else None)


@dataclass(frozen=True)
class Dies(DeviceRequest):
    def __call__(self) -> Device:
        os._exit(9)


def test_a_mesh_that_cannot_be_opened_or_answers_wrongly_is_one_failed_line(request_: DeviceRequest) -> None:
    simulated = replace(request_, device="simulated")
    hangs, refused, wrong = (replace(simulated, simulate=how) for how in ("compile=60s", "compute=0ms", "wrong_chip=2"))
    for request, limit, found in (
        (hangs, 1.5, "no answer for 1.5 s"),
        (refused, 60, "simulated device: compute must be above 0, such as compute=10ms"),
        (Dies(**vars(hangs)), 60, "the process died (exit code 9)"),
        (wrong, 60, "self-check failed: board 1 chip 2: 160 of 160 scores differ, by up to 9"),
    ):
        check = try_mesh(request, limit)
        assert (check.status, bool(check.fix), check.found) == ("fail", True, found)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}
