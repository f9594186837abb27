"""What a host and a cluster must have to classify images: pure functions from facts to pass, warn or fail, and the fix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.hardware import Hardware, Snapshot
from jobs.pipeline.placement import DECODE_SECONDS
from vit_actor.device_time import N300_CHIP_IMAGES_PER_SECOND

Status = Literal["pass", "warn", "fail"]

CHIPS_PER_BOARD = {"n300": 2, "n150": 1}

DRIVER_NEEDED = (1, 34, 0)
"""Kernel driver below which ttnn 0.81's driver library refuses to open a board."""

DRIVER_WANTED = (2, 0, 0)
"""What tt-smi asks for, and the driver library where an IOMMU translates."""

FIRMWARE_NEEDED = (18, 10, 0)
"""The least ttnn 0.81 names when a chip's Ethernet cores do not come back."""

OLD_FIRMWARE = 80
"""Bundles were once numbered 80.x and came before 18.x."""

HUGE_PAGES_PER_BOARD = 4
"""What Tenstorrent's hugepages-setup reserves for a Wormhole board, 1 GiB each; one is the least."""

CHUNK_BYTES = 512 * 224 * 224 * 3
"""Decoded images travel in chunks of 512."""

NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "ceph", "glusterfs", "beegfs", "wekafs"}

GIB = 2**30
WORKER_BYTES = GIB
"""A decoding worker holds 0.65 GB of libraries and its chunk."""

ACTOR_BYTES = 8 * GIB
"""A mesh's actor: the checkpoint in float32, its device layout, compiled kernels and batches in flight."""

CLOCK_WARN, CLOCK_FAIL = 0.5, 30.0
"""Seconds. Rows carry their host's clock, and throughput over time is drawn from it by the second."""


@dataclass(frozen=True)
class Host:
    """What is known of one host.

    cores: that Ray may use. versions: of Python, the kernel and the packages that take part.
    compiler: path of sfpi's riscv-tt-elf-g++, None if it is not installed.
    snapshot: what tt-smi saw, or why it saw nothing.
    visible: TT_VISIBLE_DEVICES of the Ray node, or here. ray_boards: TTNPU the node declares; None outside a cluster.
    kernel_cache: where ttnn keeps compiled kernels, and the type of the filesystem there.
    """

    name: str
    hardware: Hardware
    cores: int
    versions: dict[str, str]
    compiler: str | None
    snapshot: Snapshot | str
    visible: str | None = None
    ray_boards: int | None = None
    kernel_cache: tuple[str, str] | None = None

    @property
    def is_helper(self) -> bool:
        """Only decodes: there is no Tenstorrent device on its bus, driver or not."""
        return not self.hardware.on_pcie and not self.hardware.boards


@dataclass(frozen=True)
class Check:
    """One line of the report. found: what there is, with its number. fix: what to do, empty on a pass."""

    name: str
    status: Status
    found: str
    fix: str = ""


def check_host(host: Host, boards_per_mesh: int) -> list[Check]:
    """Every check one host can answer for itself; a helper is asked only what decoding needs."""
    if host.is_helper:
        return [memory(host), shared_memory(host)]
    return [
        boards(host, boards_per_mesh),
        counted_by_ray(host),
        chips(host),
        driver(host),
        firmware(host),
        huge_pages(host),
        ttnn_installed(host),
        compiler(host),
        kernel_cache(host),
        memory(host),
        shared_memory(host),
    ]


def check_cluster(hosts: Sequence[Host], boards_per_mesh: int) -> list[Check]:
    """What only all hosts together can answer; one host alone is a cluster of one."""
    return [meshes(hosts, boards_per_mesh), decoding(hosts, boards_per_mesh), packages(hosts), platforms(hosts)]


def boards(host: Host, boards_per_mesh: int) -> Check:
    hardware = host.hardware
    usable = [board for board in hardware.boards if board.accessible]
    kinds = sorted({board.card or "unknown card" for board in hardware.boards})
    found = f"{len(hardware.boards)} {' and '.join(kinds)}" if hardware.boards else "none with a driver"
    if len(hardware.boards) < hardware.on_pcie:
        return Check(
            "boards",
            "fail",
            f"{found}, {hardware.on_pcie} on PCIe",
            "sudo modprobe tenstorrent; if boards still lack, sudo dmesg | grep tenstorrent says why, and a cold boot helps",
        )
    if len(usable) < len(hardware.boards):
        closed = ", ".join(f"/dev/tenstorrent/{board.index}" for board in hardware.boards if not board.accessible)
        return Check("boards", "fail", f"{found}; no access to {closed}", "install the driver's udev rule, which gives mode 0666")
    if boards_per_mesh and len(hardware.boards) % boards_per_mesh:
        return Check("boards", "fail", f"{found}, {boards_per_mesh} wanted", "reseat the missing board, or pass --boards")
    if kinds != ["n300"]:
        return Check("boards", "warn", found, "a T3000 mesh is four n300 boards; others are untried")
    return Check("boards", "pass", found)


def counted_by_ray(host: Host) -> Check:
    """Ray takes every name in /dev/tenstorrent for a board, and the driver's udev rule adds the directory by-id."""
    have = len(host.hardware.boards)
    visible = None if host.visible is None else len([index for index in host.visible.split(",") if index])
    counts = host.hardware.entries if visible is None else min(host.hardware.entries, visible)
    counted = host.ray_boards if host.ray_boards is not None else counts
    found = f"TTNPU: {counted}" + ("" if host.ray_boards is not None else ", once Ray runs")
    if counted == have:
        return Check("boards for Ray", "pass", found)
    return Check(
        "boards for Ray",
        # Outside a cluster nothing is wrong yet, and start-node.sh will see to it.
        "warn" if host.ray_boards is None else "fail",
        f"{found}, but {have} boards",
        "start the node with cluster/start-node.sh, which names the boards in TT_VISIBLE_DEVICES",
    )


def chips(host: Host) -> Check:
    wanted = sum(CHIPS_PER_BOARD.get(board.card or "", 0) for board in host.hardware.boards)
    if isinstance(host.snapshot, str):
        return Check("chips", "warn", f"not seen: {host.snapshot}", "install tt-smi to see chips behind Ethernet, or pass --open")
    if host.snapshot.chips < wanted:
        return Check(
            "chips",
            "fail",
            f"{host.snapshot.chips} of {wanted}",
            "tt-smi -r resets the boards; on a T3000 then tt-topology -l mesh sets up its Ethernet links",
        )
    if host.snapshot.untrained:
        return Check("chips", "fail", f"DRAM of {host.snapshot.untrained} did not come up", "tt-smi -r, then a cold boot")
    if host.snapshot.hot:
        found = f"{len(host.snapshot.hot)} of {host.snapshot.chips} too hot ({host.snapshot.hot[0]})"
        return Check("chips", "warn", found, "they clock down: look after fans and airflow")
    return Check("chips", "pass", f"{host.snapshot.chips}")


def driver(host: Host) -> Check:
    text = host.hardware.driver
    if text is None:
        return Check("kernel driver", "fail", "not loaded", "install tt-kmd and sudo modprobe tenstorrent")
    version = _numbers(text)
    if version < DRIVER_NEEDED or (host.hardware.iommu and version < DRIVER_WANTED):
        least = DRIVER_WANTED if host.hardware.iommu else DRIVER_NEEDED
        return Check("kernel driver", "fail", text, f"install tt-kmd {_dotted(least)} or newer; ttnn refuses this one")
    if version < DRIVER_WANTED:
        return Check("kernel driver", "warn", text, f"tt-smi asks for tt-kmd {_dotted(DRIVER_WANTED)} or newer")
    return Check("kernel driver", "pass", text)


def firmware(host: Host) -> Check:
    versions = sorted({board.firmware for board in host.hardware.boards if board.firmware})
    found = ", ".join(versions)
    fix = f"flash all boards with one bundle, {_dotted(FIRMWARE_NEEDED)} or newer (tt-flash)"
    if not versions:
        return Check("firmware", "warn", "not seen: the driver reports none", "a newer tt-kmd shows tt_fw_bundle_ver")
    if any(_numbers(version) < FIRMWARE_NEEDED or _numbers(version)[0] >= OLD_FIRMWARE for version in versions):
        return Check("firmware", "fail", found, fix)
    if len(versions) > 1:
        return Check("firmware", "fail", f"boards differ: {found}", fix)
    return Check("firmware", "pass", found)


def huge_pages(host: Host) -> Check:
    hardware = host.hardware
    wanted = HUGE_PAGES_PER_BOARD * len(hardware.boards)
    found = f"{hardware.huge_pages} of {wanted}" + ("" if hardware.huge_pages_mounted else ", not mounted")
    fix = (
        "install tenstorrent-tools, then sudo systemctl enable --now tenstorrent-hugepages.service "
        "'dev-hugepages\\x2d1G.mount' and reboot"
    )
    if hardware.huge_pages >= wanted and hardware.huge_pages_mounted:
        return Check("huge pages", "pass", f"{found}, 1 GiB each")
    if hardware.iommu:
        return Check("huge pages", "warn", f"{found}; the IOMMU makes up for them", f"for faster transfers: {fix}")
    if hardware.huge_pages >= len(hardware.boards) and hardware.huge_pages_mounted:
        return Check("huge pages", "warn", found, fix)
    return Check("huge pages", "fail", found, fix)


def ttnn_installed(host: Host) -> Check:
    if "ttnn" in host.versions:
        return Check("ttnn", "pass", host.versions["ttnn"])
    return Check("ttnn", "fail", "not installed", "run cluster/install.sh")


def compiler(host: Host) -> Check:
    if host.compiler:
        return Check("kernel compiler", "pass", host.compiler)
    return Check("kernel compiler", "fail", "sfpi not found", "run cluster/install.sh, which fetches the one ttnn names")


def kernel_cache(host: Host) -> Check:
    if host.kernel_cache is None:
        return Check("kernel cache", "warn", "not seen", "set TT_METAL_CACHE to a directory on this host's own disk")
    directory, kind = host.kernel_cache
    if kind in NETWORK_FILESYSTEMS:
        fix = "set TT_METAL_CACHE to a directory on this host's own disk: hosts that share one overwrite each other's kernels"
        return Check("kernel cache", "warn", f"on {kind}: {directory}", fix)
    return Check("kernel cache", "pass", f"on {kind}: {directory}")


def memory(host: Host) -> Check:
    have = host.hardware.memory_bytes
    actor = 0 if host.is_helper else ACTOR_BYTES
    wanted = host.hardware.huge_pages * GIB + host.cores * WORKER_BYTES + _object_store(host) + actor
    found = f"{have / GIB:.0f} GiB, {wanted / GIB:.0f} wanted"
    if have >= wanted:
        return Check("memory", "pass", found)
    return Check("memory", "warn", found, "start the node with a smaller --num-cpus, or add memory")


def shared_memory(host: Host) -> Check:
    have, wanted = host.hardware.shm_bytes, _object_store(host)
    found = f"{have / GIB:.1f} GiB, {wanted / GIB:.1f} wanted"
    if have >= wanted:
        return Check("/dev/shm", "pass", found)
    return Check("/dev/shm", "fail", found, "mount a larger one: below its need Ray keeps decoded images on disk, at disk speed")


def meshes(hosts: Sequence[Host], boards_per_mesh: int) -> Check:
    helpers = sum(host.is_helper for host in hosts)
    count = _meshes(hosts, boards_per_mesh)
    found = f"{count}; hosts: {len(hosts)}, {helpers} of them without boards"
    if count or not boards_per_mesh:
        return Check("meshes", "pass", found)
    return Check("meshes", "fail", found, "lspci -d 1e52: lists the boards PCIe sees; pass --boards 0 for a cluster without")


def decoding(hosts: Sequence[Host], boards_per_mesh: int) -> Check:
    """Cores to decode photographs as fast as the meshes classify them, beside one core a mesh that drives it."""
    cores, count = sum(host.cores for host in hosts), _meshes(hosts, boards_per_mesh)
    if not count:
        return Check("decoding", "pass", f"{cores} cores, no mesh to feed")
    rate = N300_CHIP_IMAGES_PER_SECOND * CHIPS_PER_BOARD["n300"] * boards_per_mesh * count
    wanted = math.ceil(rate * DECODE_SECONDS) + count
    found = f"{cores} cores of {wanted} for {rate:,} images/s"
    if cores >= wanted:
        return Check("decoding", "pass", found)
    share = max(cores - count, 0) / (wanted - count)
    return Check("decoding", "warn", found, f"the meshes will wait {1 - share:.0%} of the time: add CPU-only helpers")


def packages(hosts: Sequence[Host]) -> Check:
    """Actors and tasks are pickled between hosts: they must run the same Python and packages."""
    return _equal("packages", hosts, lambda host: {k: v for k, v in host.versions.items() if k != "kernel"}, "fail")


def platforms(hosts: Sequence[Host]) -> Check:
    """Kernels and drivers may differ, but a difference is where to look first when one LoudBox behaves unlike the others."""
    return _equal("platforms", hosts, _platform, "warn")


def clock(offset_seconds: float, uncertainty_seconds: float) -> Check:
    """offset_seconds: this host's clock less the driver's; uncertainty_seconds: half of the question's round trip."""
    found = f"{offset_seconds:+.3f} s (± {uncertainty_seconds:.3f})"
    beyond = abs(offset_seconds) - uncertainty_seconds
    if beyond > CLOCK_WARN:
        return Check("clock", "fail" if beyond > CLOCK_FAIL else "warn", found, "sudo timedatectl set-ntp true")
    return Check("clock", "pass", found)


def _platform(host: Host) -> dict[str, str]:
    facts = {"kernel": host.versions.get("kernel", "unknown")}
    if host.is_helper:
        return facts
    firmwares = sorted({board.firmware or "unknown" for board in host.hardware.boards})
    return facts | {"driver": host.hardware.driver or "none", "firmware": " and ".join(firmwares)}


def _equal(name: str, hosts: Sequence[Host], facts: Callable[[Host], dict[str, str]], otherwise: Status) -> Check:
    values: dict[str, dict[str, list[str]]] = {}
    for host in hosts:
        for key, value in facts(host).items():
            values.setdefault(key, {}).setdefault(value, []).append(host.name)
    differing = {key: by_value for key, by_value in values.items() if len(by_value) > 1}
    if not differing:
        return Check(name, "pass", f"alike on {len(hosts)} {'host' if len(hosts) == 1 else 'hosts'}")
    found = "; ".join(
        f"{key} {', '.join(f'{value} on {_some(names)}' for value, names in by_value.items())}"
        for key, by_value in differing.items()
    )
    return Check(name, otherwise, found, "bring all hosts to one version; cluster/install.sh installs the pinned packages")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _meshes(hosts: Sequence[Host], boards_per_mesh: int) -> int:
    return sum(len(host.hardware.boards) // boards_per_mesh for host in hosts) if boards_per_mesh else 0


def _object_store(host: Host) -> int:
    """Two chunks a core, one being filled and one waiting, and four for a mesh that takes two at a time."""
    return CHUNK_BYTES * (2 * host.cores + (0 if host.is_helper else 4))


def _numbers(version: str) -> tuple[int, ...]:
    """'2.10.1-pre' -> (2, 10, 1); '1.34' -> (1, 34, 0)."""
    numbers = [int(part) for part in version.split("-")[0].split(".") if part.isdigit()]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
