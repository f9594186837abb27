"""A LoudBox's /dev, /sys and /proc as plain files, in the layout of the driver's documentation, with faults to order."""

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
        (root / "dev/shm").mkdir(parents=True, exist_ok=True)
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
    directory: Path, *, chips: int = 8, card: str = "n300", dram: bool = True, heat: str = "45.3", code: int = 0,
    coords: str = "", links: dict[int, str] | None = None, lost: tuple[int, ...] = (), bundle: str = "19.9.0.0",
) -> Path:  # fmt: skip
    """A tt-smi that prints a snapshot, or fails; its directory, for PATH.

    Its layout is that of tt-smi 6.2.1 (tt_smi/log.py, tt_smi/backend.py, tests/test_snapshot.py), which has tt-umd's names.
    coords: of every chip. links: ETH_LIVE_STATUS of some chips. lost: chips that were not enumerated.
    """
    info = []
    for n in set(range(chips)) - set(lost):
        local = card != "n300" or n % 2 == 0
        board = {
            "bus_id": f"0000:0{n // 2 + 1}:00.0" if local else "N/A",
            "board_type": card + ("" if card != "n300" else " L" if local else " R"),
            "board_id": f"010001421170301{n // 2 if card == 'n300' else n}",
            "coords": coords or f"({n // 2}, {n % 2}, 0, 0)",
            **{"dram_status": dram, "dram_speed": "12G", "pcie_speed": 4, "pcie_width": 16},
        }
        info.append(
            {
                "smbus_telem": {"DDR_STATUS": "0x222222", "ETH_LIVE_STATUS": (links or {}).get(n, "0x1c01ffff")},
                "board_info": board,
                "telemetry": {"voltage": "0.80", "power": " 17.0", "asic_temperature": heat, "board_power": "N/A"},
                "firmwares": {"fw_bundle_version": bundle, "eth_fw": "7.2.0", "cm_fw": "2.34.0.0"},
                "limits": {"vdd_min": "0.80", "tdp_limit": "85", "asic_fmax": "1000", "thm_limit": "75"},
            }
        )
    told = {"host_info": {}, "host_sw_vers": {"tt_smi": "6.2.1"}, "device_info": info, "processes": []}
    snapshot = put(directory / "snapshot.json", json.dumps(told, indent=4))
    answer = f"cat '{snapshot}'" if not code else "echo 'no boards on PCIe answer' >&2"
    program = put(directory / "tt-smi", f"#!/bin/sh\necho 'Gathering Information'\n{answer}\nexit {code}\n")
    program.chmod(0o755)
    return directory
