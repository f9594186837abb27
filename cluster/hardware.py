"""Tenstorrent boards and what they need of a host, read from /dev, /sys and /proc; nothing is opened or changed."""

import json
import os
import re
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.running import machine
from jobs.running.machine import text
from jobs.running.terminal import one_line

VENDOR = "0x1e52"  # Tenstorrent's PCI vendor id
NOWHERE = "(0, 0, 0, 0)"
"""What tt-smi writes for a chip of which the driver library has no coordinates (tt_smi/backend.py); one chip has these truly."""

LINKS_TOLD = [19, 9]
LOCK_FLAG = 0x5454554D444D5458.to_bytes(8, "little")
SNAPSHOT_SECONDS = 15.0  # Limit for tt-smi, which waits for boards that do not answer


@dataclass(frozen=True)
class Board:
    """One PCIe board with a driver.

    index: N of /dev/tenstorrent/N. accessible: this user may open it.
    card, firmware: as the driver reports them (n300, 18.10.0.0); None where the board's firmware does not say.
    """

    index: int
    card: str | None
    firmware: str | None
    accessible: bool


@dataclass(frozen=True)
class Hardware:
    """What one host has.

    on_pcie: Tenstorrent devices on the bus, whether or not a driver has taken them.
    entries: names in /dev/tenstorrent, which is what Ray counts as boards.
    driver: version of the loaded kernel driver, None if none is.
    huge_pages: pages of 1 GiB the kernel holds ready; huge_pages_mounted: they have a file system.
    iommu: every board's memory accesses are translated, so that it can use ordinary pages.
    memory_bytes, shm_bytes: RAM that may be used, and the size of /dev/shm, where Ray's object store lives.
    dead_locks: the driver library's locks whose owner is gone.
    """

    boards: tuple[Board, ...]
    on_pcie: int
    entries: int
    driver: str | None
    huge_pages: int
    huge_pages_mounted: bool
    iommu: bool
    memory_bytes: int
    shm_bytes: int
    dead_locks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """What tt-smi saw after enumerating over Ethernet.

    chips: how many. untrained: how many of them whose DRAM did not come up. alone: boards of two chips of which one was seen.
    unlinked: chips that tell their links and have none that is up. uncharted: no chip has Ethernet coordinates.
    hot: how hot each chip is that has reached its own limit.
    """

    chips: int
    untrained: int = 0
    alone: tuple[str, ...] = ()
    unlinked: tuple[str, ...] = ()
    uncharted: bool = False
    hot: tuple[str, ...] = ()


def read_hardware(root: Path = Path("/")) -> Hardware:
    """Read the host below `root`. Whatever is missing counts as none; nothing is raised."""
    names = [path.name for path in (root / "dev/tenstorrent").glob("*")]
    boards, translated = [], []
    for index in sorted(int(name) for name in names if name.isdigit()):
        # The driver's documentation: the exclamation mark stands for the slash in the device's name.
        attributes = root / f"sys/class/tenstorrent/tenstorrent!{index}"
        card, firmware = (text(attributes / name) or None for name in ("tt_card_type", "tt_fw_bundle_ver"))
        boards.append(Board(index, card, firmware, os.access(root / f"dev/tenstorrent/{index}", os.R_OK | os.W_OK)))
        # The test that ttnn's driver library makes: the IOMMU group is of type DMA or DMA-FQ.
        translated.append(text(attributes / "device/iommu_group/type").startswith("DMA"))
    mounts = text(root / "proc/mounts")
    return Hardware(
        boards=tuple(boards),
        on_pcie=sum(text(vendor) == VENDOR for vendor in (root / "sys/bus/pci/devices").glob("*/vendor")),
        entries=len(names),
        driver=text(root / "sys/module/tenstorrent/version") or None,
        huge_pages=int(text(root / "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages") or 0),
        huge_pages_mounted=bool(re.search(r"^\S+ \S+ hugetlbfs \S*pagesize=(1024M|1G)", mounts, re.MULTILINE)),
        iommu=bool(boards) and all(translated),
        memory_bytes=machine.memory_bytes(root),
        shm_bytes=machine.shm_bytes(root),
        dead_locks=tuple(_dead_locks(root)),
    )


def read_snapshot() -> Snapshot | str:
    """What tt-smi sees, or in a few words why it could not be asked."""
    program = shutil.which("tt-smi")
    if program is None:
        return "tt-smi is not installed"
    try:
        done = subprocess.run(
            [program, "-s"], capture_output=True, text=True, timeout=SNAPSHOT_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
        return parse_snapshot(done.stdout)
    except subprocess.TimeoutExpired:
        return f"tt-smi did not answer for {SNAPSHOT_SECONDS:g} s"
    except subprocess.CalledProcessError as error:
        said = [line.strip() for line in f"{error.stdout}\n{error.stderr}".splitlines() if line.strip()]
        return one_line(f"tt-smi failed: {said[-1]}") if said else f"tt-smi failed with exit code {error.returncode}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"tt-smi failed ({type(error).__name__})"


def parse_snapshot(told: str) -> Snapshot:
    """The output of `tt-smi -s`: one JSON object, perhaps among other lines. Raises ValueError for anything else."""
    chips = None
    for start in re.finditer(r"\{", told):
        with suppress(ValueError):
            found = json.JSONDecoder().raw_decode(told, start.start())[0]
            chips = found.get("device_info") if chips is None else chips
    if chips is None:
        raise ValueError("no device_info")
    boards = [chip["board_info"] for chip in chips]
    seen = Counter(board.get("board_id") for board in boards)
    alone, unlinked = [], []
    for board, chip in zip(boards, chips, strict=True):
        name, kind = board.get("board_id"), board.get("board_type")  # `n300 L`, the chip on PCIe, and `n300 R`, behind it
        if kind == "n300 L" and seen[name] == 1:
            alone.append(f"{name} ({board.get('bus_id')})")
        if _links(chip) == 0:
            unlinked.append(f"{name} ({kind})")
    return Snapshot(
        chips=len(chips),
        untrained=sum(str(board.get("dram_status", "N/A")).lower() == "false" for board in boards),
        alone=tuple(alone),
        unlinked=tuple(unlinked),
        uncharted=len(chips) > 1 and all(board.get("coords") == NOWHERE for board in boards),
        hot=tuple(filter(None, map(_heat, chips))),
    )


def _links(chip: dict[str, Any]) -> int | None:
    """The Ethernet links that are up, a bit each: the upper half of ETH_LIVE_STATUS from firmware 19.9 on, before which it tells
    something else (tt-umd, firmware_info_provider_implementation.cpp). None where it is not told."""
    try:
        bundle = [int(part) for part in chip["firmwares"]["fw_bundle_version"].split(".")[:2]]
        return int(chip["smbus_telem"]["ETH_LIVE_STATUS"], 16) >> 16 if bundle >= LINKS_TOLD else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _dead_locks(root: Path) -> Iterator[str]:
    """The driver library's locks (tt-umd, robust_mutex.hpp: a mutex of 40 bytes, a flag, the owner's thread and process)."""
    for path in sorted((root / "dev/shm").glob("TT_UMD_LOCK.*")):
        with suppress(OSError, struct.error):
            flag, _, owner = struct.unpack("40x8sii", path.read_bytes())
            if flag == LOCK_FLAG and owner and not (root / f"proc/{owner}").exists():
                yield f"{path.name} of process {owner}"


def _heat(chip: dict[str, Any]) -> str | None:
    """How hot a chip is, where that is at or above its own limit and both are known."""
    try:
        found, limit = float(chip["telemetry"]["asic_temperature"]), float(chip["limits"]["thm_limit"])
    except (KeyError, TypeError, ValueError):
        return None
    return f"{found:g} C of {limit:g}" if found >= limit else None
