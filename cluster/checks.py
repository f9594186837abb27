"""What a host and a cluster must have to classify images: pure functions from facts to pass, warn or fail, and the fix."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    hardware, ttnn, store, verdicts = host.hardware, host.versions.get("ttnn"), _object_store(host), dict[str, Verdict]()
    if not host.is_helper:
        fetch = "run cluster/install.sh, which fetches the one ttnn names"
        verdicts = {
            "boards": boards(host, boards_per_mesh),
            "boards for Ray": counted_by_ray(host),
            "chips": chips(host),
            "kernel driver": driver(hardware),
            "firmware": firmware(hardware),
            "huge pages": huge_pages(hardware),
            "ttnn": _passes(ttnn is not None, "fail", ttnn or "not installed", "run cluster/install.sh"),
            "kernel compiler": _passes(host.compiler is not None, "fail", host.compiler or "sfpi not found", fetch),
            "kernel cache": kernel_cache(host),
        }
    if dead := hardware.dead_locks:  # the library takes them over, but not always those from another container
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        fix = "if opening hangs: end all that uses boards, then rm /dev/shm/TT_UMD_LOCK.*"
        verdicts["locks"] = "warn", f"{dead[0]}, which has ended{more}", fix
    have, shm = hardware.memory_bytes, hardware.shm_bytes
    wanted = hardware.huge_pages * GIB + host.cores * WORKER_BYTES + store + (0 if host.is_helper else ACTOR_BYTES)
    found, fix = f"{have / GIB:.0f} GiB, {wanted / GIB:.0f} wanted", "start the node with a smaller --num-cpus, or add memory"
    verdicts["memory"] = _passes(have >= wanted, "warn", found, fix)
    fix = "mount a larger one: below its need Ray keeps decoded images on disk, at disk speed"
    verdicts["/dev/shm"] = _passes(shm >= store, "fail", f"{shm / GIB:.1f} GiB, {store / GIB:.1f} wanted", fix)
    if host.limits:  # of open files, threads and addresses, and the room for Ray's own files
        found, _, fix = "; ".join(host.limits).rpartition("; ")
        verdicts["limits"] = "fail", found, fix
    return [Check(name, *verdict) for name, verdict in verdicts.items()]


def check_cluster(hosts: Sequence[Host], boards_per_mesh: int) -> list[Check]:
    """What only all hosts together can answer; one host alone is a cluster of one."""
    helpers = sum(host.is_helper for host in hosts)
    count = sum(len(host.boards) // boards_per_mesh for host in hosts) if boards_per_mesh else 0
    found = f"{count}; hosts: {len(hosts)}, {helpers} of them without boards"
    fix = "lspci -d 1e52: lists the boards PCIe sees; pass --boards 0 for a cluster without"
    return [
        Check("meshes", *_passes(bool(count) or not boards_per_mesh, "fail", found, fix)),
        Check("decoding", *decoding(sum(host.cores for host in hosts), count, boards_per_mesh)),
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
    return _passes(kinds == ["n300"], "warn", found, "a T3000 mesh is four n300 boards; others are untried")


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
    behind = f": none behind board {' and '.join(seen.alone)}" if seen.alone else ""
    unlinked = f"no Ethernet link is up on board {' and '.join(seen.unlinked)}"
    chart = "tt-topology -l mesh, which tells the boards their places"
    for wrong, found, fix in (
        (seen.chips < wanted, f"{seen.chips} of {wanted}{behind}", reset),
        (seen.untrained, f"DRAM of {seen.untrained} did not come up", "tt-smi -r, then a cold boot"),
        (seen.unlinked, unlinked, f"{reset}; look after its bridge"),
        (seen.uncharted, f"all {seen.chips} at coordinates (0, 0, 0, 0)", chart),
    ):
        if wrong:
            return "fail", found, fix
    if seen.hot:
        found = f"{len(seen.hot)} of {seen.chips} too hot ({seen.hot[0]})"
        return "warn", found, "they clock down: look after fans and airflow"
    return "pass", f"{seen.chips}", ""


def driver(hardware: Hardware) -> Verdict:
    found, least = hardware.driver, DRIVER_WANTED if hardware.iommu else DRIVER_NEEDED
    if found is None:
        return "fail", "not loaded", "install tt-kmd and sudo modprobe tenstorrent"
    if _numbers(found) < least:
        return "fail", found, f"install tt-kmd {_dotted(least)} or newer; ttnn refuses this one"
    fix = f"tt-smi asks for tt-kmd {_dotted(DRIVER_WANTED)} or newer"
    return _passes(_numbers(found) >= DRIVER_WANTED, "warn", found, fix)


def firmware(hardware: Hardware) -> Verdict:
    versions = sorted({board.firmware for board in hardware.boards if board.firmware})
    if not versions:
        return "warn", "not seen: the driver reports none", "a newer tt-kmd shows tt_fw_bundle_ver"
    old = any(_numbers(version) < FIRMWARE_NEEDED or _numbers(version)[0] >= OLD_FIRMWARE for version in versions)
    found = ("boards differ: " if len(versions) > 1 and not old else "") + ", ".join(versions)
    fix = f"flash all boards with one bundle, {_dotted(FIRMWARE_NEEDED)} or newer (tt-flash)"
    return _passes(len(versions) == 1 and not old, "fail", found, fix)


def huge_pages(hardware: Hardware) -> Verdict:
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


def kernel_cache(host: Host) -> Verdict:
    fix = "set TT_METAL_CACHE to a directory on this host's own disk"
    if host.kernel_cache is None:
        return "warn", "not seen", fix
    directory, kind = host.kernel_cache
    why = f"{fix}: hosts that share one overwrite each other's kernels"
    return _passes(kind not in NETWORK_FILESYSTEMS, "warn", f"on {kind}: {directory}", why)


def decoding(cores: int, meshes: int, boards_per_mesh: int) -> Verdict:
    """Cores to decode photographs as fast as the meshes classify them, beside one core a mesh that drives it."""
    if not meshes:
        return "pass", f"{cores} cores, no mesh to feed", ""
    rate = N300_CHIP_IMAGES_PER_SECOND * CHIPS_PER_BOARD["n300"] * boards_per_mesh * meshes
    wanted = math.ceil(rate * DECODE_SECONDS) + meshes
    share = max(cores - meshes, 0) / (wanted - meshes)
    fix = f"the meshes will wait {1 - share:.0%} of the time: add CPU-only helpers"
    return _passes(cores >= wanted, "warn", f"{cores} cores of {wanted} for {rate:,} images/s", fix)


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
    differing = [
        f"{key} {', '.join(f'{value} on {some(names, 3)}' for value, names in by_value.items())}"
        for key, by_value in values.items()
        if len(by_value) > 1
    ]
    found = "; ".join(differing) or f"alike on {counted(len(hosts), 'host')}"
    fix = "bring all hosts to one version; cluster/install.sh installs the pinned packages"
    return _passes(not differing, otherwise, found, fix)


def _object_store(host: Host) -> int:
    """Two chunks a core, one being filled and one waiting, and four for a mesh that takes two at a time."""
    return CHUNK_BYTES * (2 * host.cores + (0 if host.is_helper else 4))


def _numbers(version: str) -> tuple[int, ...]:
    """'2.10.1-pre' -> (2, 10, 1); '1.34' -> (1, 34, 0)."""
    numbers = [int(part) for part in version.split("-")[0].split(".") if part.isdigit()]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
