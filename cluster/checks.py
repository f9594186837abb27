"""What a host and a cluster must have to classify images: pure functions from facts to pass, warn or fail, and the fix."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from cluster.hardware import Board, Hardware, Snapshot
from jobs.pipeline.placement import DECODE_SECONDS
from jobs.running.words import counted, some
from vit_actor.device_time import N300_CHIP_IMAGES_PER_SECOND

Status = Literal["pass", "warn", "fail"]

CHIPS_PER_BOARD = {"n300": 2, "n150": 1}

DRIVER_NEEDED = (1, 34, 0)  # Kernel driver below which ttnn 0.81's driver library refuses to open a board

DRIVER_WANTED = (2, 0, 0)  # What tt-smi asks for, and the driver library where an IOMMU translates

FIRMWARE_NEEDED = (18, 10, 0)  # The least ttnn 0.81 names when a chip's Ethernet cores do not come back

OLD_FIRMWARE = 80  # Bundles were once numbered 80.x and came before 18.x

HUGE_PAGES_PER_BOARD = 4  # What Tenstorrent's hugepages-setup reserves for a Wormhole board, 1 GiB each; one is the least

CHUNK_BYTES = 512 * 224 * 224 * 3  # Decoded images travel in chunks of 512

NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "ceph", "glusterfs", "beegfs", "wekafs"}

GIB = 2**30
WORKER_BYTES = GIB  # A decoding worker holds 0.65 GB of libraries and its chunk

ACTOR_BYTES = 8 * GIB  # A mesh's actor: the checkpoint in float32, its device layout, compiled kernels and batches in flight

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
    limits: what of its limits and directories would keep Ray from running, `what there is; the fix`.
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
    limits: tuple[str, ...] = ()

    @property
    def boards(self) -> tuple[Board, ...]:
        """Those that TT_VISIBLE_DEVICES names; without it all."""
        named = set(filter(None, (self.visible or "").split(",")))
        return tuple(board for board in self.hardware.boards if not named or str(board.index) in named)

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


Verdict = tuple[Status, str, str]  # A check without its name: status, what there is, the fix


def _passes(sound: bool, otherwise: Status, found: str, fix: str) -> Verdict:
    return ("pass", found, "") if sound else (otherwise, found, fix)


def check_host(host: Host, boards_per_mesh: int) -> list[Check]:
    """Every check one host can answer for itself; a helper is asked only what decoding needs."""
    of_a_loudbox: dict[str, Callable[[Host], Verdict]] = {
        "boards": partial(boards, boards_per_mesh=boards_per_mesh),
        "boards for Ray": counted_by_ray,
        "chips": chips,
        "kernel driver": driver,
        "firmware": firmware,
        "huge pages": huge_pages,
        "ttnn": ttnn_installed,
        "kernel compiler": compiler,
        "kernel cache": kernel_cache,
    }
    of_any: dict[str, Callable[[Host], Verdict]] = {"memory": memory, "/dev/shm": shared_memory}
    if host.limits:
        of_any["limits"] = limits
    if host.hardware.dead_locks:
        of_any["locks"] = locks
    return [Check(name, *check(host)) for name, check in (of_any if host.is_helper else of_a_loudbox | of_any).items()]


def check_cluster(hosts: Sequence[Host], boards_per_mesh: int) -> list[Check]:
    """What only all hosts together can answer; one host alone is a cluster of one."""
    return [
        Check("meshes", *meshes(hosts, boards_per_mesh)),
        Check("decoding", *decoding(hosts, boards_per_mesh)),
        # Actors and tasks are pickled between hosts: they must run the same Python and packages.
        Check("packages", *_equal(hosts, lambda host: {k: v for k, v in host.versions.items() if k != "kernel"}, "fail")),
        # These may differ, but a difference is where to look first when one LoudBox behaves unlike the others.
        Check("platforms", *_equal(hosts, _platform, "warn")),
    ]


def boards(host: Host, boards_per_mesh: int) -> Verdict:
    hardware, closed = host.hardware, [board.index for board in host.boards if not board.accessible]
    have = len(host.boards)
    kinds = sorted({board.card or "unknown card" for board in host.boards})
    found = f"{have} {' and '.join(kinds)}" if have else "none with a driver"
    if have < len(hardware.boards):
        found += f" of {len(hardware.boards)}, by TT_VISIBLE_DEVICES={host.visible}"
    if len(hardware.boards) < hardware.on_pcie:
        fix = "sudo modprobe tenstorrent; if boards still lack, sudo dmesg | grep tenstorrent says why, and a cold boot helps"
        return "fail", f"{found}, {hardware.on_pcie} on PCIe", fix
    if closed:
        named = ", ".join(f"/dev/tenstorrent/{index}" for index in closed)
        return "fail", f"{found}; no access to {named}", "install the driver's udev rule, which gives mode 0666"
    if boards_per_mesh and (have % boards_per_mesh or not have):
        fix = "reseat the missing board, or pass --boards; TT_VISIBLE_DEVICES hides some"
        return "fail", f"{found}, {boards_per_mesh} wanted", fix
    if kinds != ["n300"]:
        return "warn", found, "a T3000 mesh is four n300 boards; others are untried"
    return "pass", found, ""


def counted_by_ray(host: Host) -> Verdict:
    """Ray takes every name in /dev/tenstorrent for a board, and the driver's udev rule adds the directory by-id."""
    have, counted = len(host.boards), host.ray_boards
    found = f"TTNPU: {counted}"
    if counted is None:
        counted = host.hardware.entries if host.visible is None else have
        found = f"TTNPU: {counted}, once Ray runs"
    if counted == have:
        return "pass", found, ""
    if counted < have:
        fix = "right if TT_VISIBLE_DEVICES is to keep the others from Ray, else restart the node"
        return "warn", f"{found}, but {have} boards", fix
    fix = "start the node with cluster/start-node.sh, which names the boards in TT_VISIBLE_DEVICES"
    # Outside a cluster nothing is wrong yet, and start-node.sh will see to it.
    return "warn" if host.ray_boards is None else "fail", f"{found}, but {have} boards", fix


def chips(host: Host) -> Verdict:
    seen, wanted = host.snapshot, sum(CHIPS_PER_BOARD.get(board.card or "", 0) for board in host.boards)
    if isinstance(seen, str):
        again = "end what else uses the boards (sudo lsof /dev/tenstorrent/*), then sudo tt-smi -r"
        fix = "install tt-smi to see chips behind Ethernet" if "not installed" in seen else again
        return "warn", f"not seen: {seen}", f"{fix}, or pass --open"
    reset = "tt-smi -r resets the boards; on a T3000 then tt-topology -l mesh sets up its Ethernet links; then a cold boot"
    if seen.chips < wanted:
        behind = f": none behind board {' and '.join(seen.alone)}" if seen.alone else ""
        return "fail", f"{seen.chips} of {wanted}{behind}", reset
    if seen.untrained:
        return "fail", f"DRAM of {seen.untrained} did not come up", "tt-smi -r, then a cold boot"
    if seen.unlinked:
        return "fail", f"no Ethernet link is up on board {' and '.join(seen.unlinked)}", f"{reset}; look after its bridge"
    if seen.uncharted:
        return "fail", f"all {seen.chips} at coordinates (0, 0, 0, 0)", "tt-topology -l mesh, which tells the boards their places"
    if seen.hot:
        found = f"{len(seen.hot)} of {seen.chips} too hot ({seen.hot[0]})"
        return "warn", found, "they clock down: look after fans and airflow"
    return "pass", f"{seen.chips}", ""


def driver(host: Host) -> Verdict:
    found, least = host.hardware.driver, DRIVER_WANTED if host.hardware.iommu else DRIVER_NEEDED
    if found is None:
        return "fail", "not loaded", "install tt-kmd and sudo modprobe tenstorrent"
    if _numbers(found) < least:
        return "fail", found, f"install tt-kmd {_dotted(least)} or newer; ttnn refuses this one"
    if _numbers(found) < DRIVER_WANTED:
        return "warn", found, f"tt-smi asks for tt-kmd {_dotted(DRIVER_WANTED)} or newer"
    return "pass", found, ""


def firmware(host: Host) -> Verdict:
    versions = sorted({board.firmware for board in host.hardware.boards if board.firmware})
    found = ", ".join(versions)
    fix = f"flash all boards with one bundle, {_dotted(FIRMWARE_NEEDED)} or newer (tt-flash)"
    if not versions:
        return "warn", "not seen: the driver reports none", "a newer tt-kmd shows tt_fw_bundle_ver"
    if any(_numbers(version) < FIRMWARE_NEEDED or _numbers(version)[0] >= OLD_FIRMWARE for version in versions):
        return "fail", found, fix
    return ("fail", f"boards differ: {found}", fix) if len(versions) > 1 else ("pass", found, "")


def huge_pages(host: Host) -> Verdict:
    hardware = host.hardware
    have, mounted = hardware.huge_pages, hardware.huge_pages_mounted
    wanted = HUGE_PAGES_PER_BOARD * len(hardware.boards)
    found = f"{have} of {wanted}" + ("" if mounted else ", not mounted")
    units = "tenstorrent-hugepages.service 'dev-hugepages\\x2d1G.mount'"
    fix = f"install tenstorrent-tools, then sudo systemctl enable --now {units} and reboot"
    if have >= wanted and mounted:
        return "pass", f"{found}, 1 GiB each", ""
    if hardware.iommu:
        return "warn", f"{found}; the IOMMU makes up for them", f"for faster transfers: {fix}"
    return "warn" if have >= len(hardware.boards) and mounted else "fail", found, fix


def ttnn_installed(host: Host) -> Verdict:
    found = host.versions.get("ttnn")
    return _passes(found is not None, "fail", found or "not installed", "run cluster/install.sh")


def compiler(host: Host) -> Verdict:
    fix = "run cluster/install.sh, which fetches the one ttnn names"
    return _passes(host.compiler is not None, "fail", host.compiler or "sfpi not found", fix)


def kernel_cache(host: Host) -> Verdict:
    fix = "set TT_METAL_CACHE to a directory on this host's own disk"
    if host.kernel_cache is None:
        return "warn", "not seen", fix
    directory, kind = host.kernel_cache
    found = f"on {kind}: {directory}"
    if kind in NETWORK_FILESYSTEMS:
        return "warn", found, f"{fix}: hosts that share one overwrite each other's kernels"
    return "pass", found, ""


def memory(host: Host) -> Verdict:
    have = host.hardware.memory_bytes
    actor = 0 if host.is_helper else ACTOR_BYTES
    wanted = host.hardware.huge_pages * GIB + host.cores * WORKER_BYTES + _object_store(host) + actor
    found = f"{have / GIB:.0f} GiB, {wanted / GIB:.0f} wanted"
    return _passes(have >= wanted, "warn", found, "start the node with a smaller --num-cpus, or add memory")


def shared_memory(host: Host) -> Verdict:
    have, wanted = host.hardware.shm_bytes, _object_store(host)
    found = f"{have / GIB:.1f} GiB, {wanted / GIB:.1f} wanted"
    fix = "mount a larger one: below its need Ray keeps decoded images on disk, at disk speed"
    return _passes(have >= wanted, "fail", found, fix)


def limits(host: Host) -> Verdict:
    """Of open files, threads and addresses, and the room for Ray's own files."""
    found, _, fix = "; ".join(host.limits).rpartition("; ")
    return "fail", found, fix


def locks(host: Host) -> Verdict:
    """The driver library takes over the lock of a process that died, but not always one from another container."""
    dead = host.hardware.dead_locks
    more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
    fix = "if opening hangs: end all that uses boards, then rm /dev/shm/TT_UMD_LOCK.*"
    return "warn", f"{dead[0]}, which has ended{more}", fix


def meshes(hosts: Sequence[Host], boards_per_mesh: int) -> Verdict:
    helpers, count = sum(host.is_helper for host in hosts), _meshes(hosts, boards_per_mesh)
    found = f"{count}; hosts: {len(hosts)}, {helpers} of them without boards"
    fix = "lspci -d 1e52: lists the boards PCIe sees; pass --boards 0 for a cluster without"
    return _passes(bool(count) or not boards_per_mesh, "fail", found, fix)


def decoding(hosts: Sequence[Host], boards_per_mesh: int) -> Verdict:
    """Cores to decode photographs as fast as the meshes classify them, beside one core a mesh that drives it."""
    cores, count = sum(host.cores for host in hosts), _meshes(hosts, boards_per_mesh)
    if not count:
        return "pass", f"{cores} cores, no mesh to feed", ""
    rate = N300_CHIP_IMAGES_PER_SECOND * CHIPS_PER_BOARD["n300"] * boards_per_mesh * count
    wanted = math.ceil(rate * DECODE_SECONDS) + count
    found = f"{cores} cores of {wanted} for {rate:,} images/s"
    share = max(cores - count, 0) / (wanted - count)
    fix = f"the meshes will wait {1 - share:.0%} of the time: add CPU-only helpers"
    return _passes(cores >= wanted, "warn", found, fix)


def clock(offset_seconds: float, uncertainty_seconds: float) -> Check:
    """offset_seconds: this host's clock less the driver's; uncertainty_seconds: half of the question's round trip."""
    found = f"{offset_seconds:+.3f} s (± {uncertainty_seconds:.3f})"
    beyond, fix = abs(offset_seconds) - uncertainty_seconds, "sudo timedatectl set-ntp true"
    return Check("clock", *_passes(beyond <= CLOCK_WARN, "fail" if beyond > CLOCK_FAIL else "warn", found, fix))


def _platform(host: Host) -> dict[str, str]:
    facts = {"kernel": host.versions.get("kernel", "unknown")}
    if host.is_helper:
        return facts
    firmwares = sorted({board.firmware or "unknown" for board in host.hardware.boards})
    return facts | {"driver": host.hardware.driver or "none", "firmware": " and ".join(firmwares)}


def _equal(hosts: Sequence[Host], facts: Callable[[Host], dict[str, str]], otherwise: Status) -> Verdict:
    values: dict[str, dict[str, list[str]]] = {}
    for host in hosts:
        for key, value in facts(host).items():
            values.setdefault(key, {}).setdefault(value, []).append(host.name)
    differing = {key: by_value for key, by_value in values.items() if len(by_value) > 1}
    if not differing:
        return "pass", f"alike on {counted(len(hosts), 'host')}", ""
    told = {key: ", ".join(f"{value} on {some(names, 3)}" for value, names in of.items()) for key, of in differing.items()}
    found = "; ".join(f"{key} {values}" for key, values in told.items())
    return otherwise, found, "bring all hosts to one version; cluster/install.sh installs the pinned packages"


def _meshes(hosts: Sequence[Host], boards_per_mesh: int) -> int:
    return sum(len(host.boards) // boards_per_mesh for host in hosts) if boards_per_mesh else 0


def _object_store(host: Host) -> int:
    """Two chunks a core, one being filled and one waiting, and four for a mesh that takes two at a time."""
    return CHUNK_BYTES * (2 * host.cores + (0 if host.is_helper else 4))


def _numbers(version: str) -> tuple[int, ...]:
    """'2.10.1-pre' -> (2, 10, 1); '1.34' -> (1, 34, 0)."""
    numbers = [int(part) for part in version.split("-")[0].split(".") if part.isdigit()]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
