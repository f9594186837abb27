"""A LoudBox's /dev, /sys and /proc as plain files, in the layout of the driver's documentation, with faults to order."""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass
class FakeHost:
    """What the files say. `write` puts them below a directory.

    boards: PCIe boards with a driver; on_pcie: those on the bus. by_id: the directory that the driver's udev rule adds.
    huge_pages: of 1 GiB. iommu: type of the boards' IOMMU group.
    """

    boards: int = 4
    on_pcie: int | None = None
    card: str = "n300"
    firmware: tuple[str, ...] = ("18.12.0.0",)
    driver: str | None = "2.6.0"
    by_id: bool = True
    huge_pages: int = 16
    mounted: bool = True
    disk: str = "ext4"
    iommu: str = "identity"
    memory_gib: int = 512
    sfpi: bool = True
    unreadable: int | None = None

    def write(self, root: Path) -> Path:
        for n in range(self.boards):
            put(root / f"dev/tenstorrent/{n}")
            attributes = root / f"sys/class/tenstorrent/tenstorrent!{n}"
            put(attributes / "tt_card_type", f"{self.card}\n")
            put(attributes / "tt_fw_bundle_ver", self.firmware[n % len(self.firmware)] + "\n")
            put(attributes / "device/iommu_group/type", f"{self.iommu}\n")
            if self.by_id:
                put(root / f"dev/tenstorrent/by-id/wormhole-{n:016x}")
        for n in range(self.boards if self.on_pcie is None else self.on_pcie):
            put(root / f"sys/bus/pci/devices/0000:0{n + 1}:00.0/vendor", "0x1e52\n")
        put(root / "sys/bus/pci/devices/0000:00:1f.0/vendor", "0x8086\n")
        if self.driver:
            put(root / "sys/module/tenstorrent/version", f"{self.driver}\n")
        put(root / "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", f"{self.huge_pages}\n")
        mount = "hugetlbfs-1G /dev/hugepages-1G hugetlbfs rw,nosuid,nodev,relatime,mode=777,pagesize=1024M 0 0\n"
        put(root / "proc/mounts", f"proc /proc proc rw 0 0\n/dev/sda1 / {self.disk} rw 0 0\n" + (mount if self.mounted else ""))
        put(root / "proc/meminfo", f"MemTotal:       {self.memory_gib * 2**20} kB\nMemFree:        1024 kB\n")
        (root / "dev/shm").mkdir(parents=True)
        if self.sfpi:
            compiler = put(root / "opt/tenstorrent/sfpi/compiler/bin/riscv-tt-elf-g++")
            compiler.chmod(0o755)
        return root


def kernel_compiler(directory: Path, repo: str) -> str:
    """An archive as sfpi publishes it, with a stand-in for the compiler; what ttnn would say of it, to be had from `repo`."""
    put(directory / "sfpi/compiler/bin/riscv-tt-elf-g++", "#!/bin/sh\n").chmod(0o755)
    archive = put(directory / f"releases/download/7/sfpi_7_{platform.machine()}_debian.txz")
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(directory / "sfpi", "sfpi")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return f"sfpi_repo='{repo}'\nsfpi_version='7'\nsfpi_{platform.machine()}_debian_txz_hash='{digest}'\n"


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def install_tt_smi(
    directory: Path, *, chips: int = 8, card: str = "n300", dram: str = "true", heat: str = "45.3", code: int = 0
) -> Path:
    """A tt-smi that prints a snapshot in the real one's layout (tt-smi's tt_smi/log.py), or fails; its directory, for PATH."""
    board = {"bus_id": "N/A", "board_id": "0100014211703010", "coords": "(0, 0, 0, 0)", "dram_status": dram}
    chip: dict[str, dict[str, object]] = {
        "board_info": board | {"dram_speed": "12G", "pcie_speed": 4, "pcie_width": "16"},
        "telemetry": {"voltage": "0.80", "current": " 21.0", "aiclk": " 500", "power": " 17.0", "asic_temperature": heat},
        "limits": {"vdd_min": "0.80", "vdd_max": "0.95", "tdp_limit": "85", "asic_fmax": "1000", "thm_limit": "75"},
    }
    names = [f"{card} L", f"{card} R"] if card == "n300" else [card]  # the chip on PCIe, then the one behind it
    info = [chip | {"board_info": chip["board_info"] | {"board_type": names[n % len(names)]}} for n in range(chips)]
    snapshot = put(directory / "snapshot.json", json.dumps({"time": "", "host_info": {}, "device_info": info}))
    answer = f"cat '{snapshot}'" if not code else "echo 'no boards on PCIe answer' >&2"
    program = put(directory / "tt-smi", f"#!/bin/sh\necho 'Gathering Information'\n{answer}\nexit {code}\n")
    program.chmod(0o755)
    return directory
