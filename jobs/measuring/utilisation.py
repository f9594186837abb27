"""How busy each part of a running pipeline is, as a share of what it can do, and which part bounds the rest."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

BOUND = 0.8
"""A part this busy is taken to bound the rest: work comes in bursts, so that a bound part shows less than 1."""

WAITING = {
    "start": "for the first images",
    "stream": "for images in mid-run",
    "faults": "to be replaced",
    "tail": "for the last mesh",
}

SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Utilisation:
    """Shares from 0 to 1; None where a part was not used or cannot be measured.

    device: time its batches kept the meshes. host loop: CPU time of the busiest thread that drives a device.
    decode cores: CPU time of reading and decoding over the cores that Ray has for it. driver: CPU time of the job's own
    process over one core. network: bytes in or out of the busiest interface over its speed. object store: most of it
    that was in use at once. waits: shares of the meshes' time that they waited, by what for (report_schema.WAITS).
    """

    device: float
    host_loop: float | None = None
    decode_cores: float | None = None
    driver: float | None = None
    network: float | None = None
    object_store: float | None = None
    waits: dict[str, float] = field(default_factory=dict)

    def shares(self) -> dict[str, float | None]:
        return {each.name.replace("_", " "): getattr(self, each.name) for each in fields(self) if each.name != "waits"}

    def bound(self) -> str:
        """The part that bounds the rest; where none is busy enough, what the meshes waited for most, 'unknown' without data."""
        if self.device >= BOUND:
            return "device"  # whatever else is busy keeps up with it
        share, name = max((share, name) for name, share in self.shares().items() if share is not None)
        if share >= BOUND:
            return name
        wait, reason = max(((share, reason) for reason, share in self.waits.items()), default=(0.0, "unknown"))
        return f"{reason} ({wait:.0%} of mesh time waiting {WAITING[reason]})" if wait else "unknown"


@dataclass(frozen=True)
class Traffic:
    """What a host's interfaces have carried so far, by name: bytes in, bytes out, and bits per second if known."""

    at: float
    interfaces: dict[str, tuple[int, int, float | None]]


class Watch:
    """Measures the driver, the network and the object store between `begin` and `end`; used by the driver alone."""

    def __init__(self) -> None:
        self._nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        self._store = 0.0
        self._ended = threading.Event()
        self._traffic()  # starts a worker on every host, so that `begin` is quick

    def begin(self) -> None:
        self._cpu, self._at, self._before = time.process_time(), time.monotonic(), self._traffic()
        threading.Thread(target=self._sample_store, daemon=True).start()

    def end(self) -> tuple[float, float | None, float | None]:
        """Shares of driver, network, object store."""
        driver = (time.process_time() - self._cpu) / (time.monotonic() - self._at)
        self._ended.set()
        before, after = self._before, self._traffic()
        network = None if before is None or after is None else busiest(before, after)
        return driver, network, self._store or None

    def _traffic(self) -> list[Traffic] | None:
        """Of every host, or None when one does not answer."""
        probe = ray.remote(num_cpus=0, max_retries=0)(read_traffic)
        asked = [probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, soft=False)).remote() for n in self._nodes]
        try:
            return ray.get(asked, timeout=30)
        except ray.exceptions.RayError:
            return None

    def _sample_store(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            total = ray.cluster_resources().get("object_store_memory", 0)
            free = ray.available_resources().get("object_store_memory")
            if total and free is not None:
                self._store = max(self._store, 1 - free / total)


def busiest(before: list[Traffic], after: list[Traffic]) -> float | None:
    """The share of its speed at which the interface that carried most ran; None when its speed is not known."""
    most, share = 0, None
    for first, last in zip(before, after, strict=True):
        for name, (received, sent, speed) in last.interfaces.items():
            was_received, was_sent, _ = first.interfaces.get(name, (received, sent, None))
            carried = max(received - was_received, sent - was_sent)
            if carried > most:
                most, share = carried, carried * 8 / (last.at - first.at) / speed if speed else None
    return share


def read_traffic(root: Path = Path("/sys/class/net")) -> Traffic:
    """This host's interfaces but the loopback; empty where `root` shows those of another network namespace."""
    found: dict[str, tuple[int, int, float | None]] = {}
    mine = {name: index for index, name in socket.if_nameindex()}
    for interface in root.iterdir():
        with suppress(OSError, ValueError):
            if interface.name == "lo" or mine.get(interface.name) != int((interface / "ifindex").read_text()):
                continue
            received, sent = (int((interface / "statistics" / f"{way}_bytes").read_text()) for way in ("rx", "tx"))
            found[interface.name] = received, sent, _speed(interface)
    return Traffic(time.monotonic(), found if found.keys() | {"lo"} == mine.keys() | {"lo"} else {})


def _speed(interface: Path) -> float | None:
    """Bits per second; a virtual interface has none."""
    try:
        megabits = int((interface / "speed").read_text())
    except (OSError, ValueError):
        return None
    return megabits * 1e6 if megabits > 0 else None
