"""How busy each part of a running pipeline is, as a share of what it can do, and which part bounds the rest."""

import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

BOUND = 0.8  # A part this busy is taken to bound the rest: work comes in bursts, so that a bound part shows less than 1
WAITING = {
    "start": "for the first images",
    "stream": "for images in mid-run",
    "faults": "to be replaced",
    "tail": "for the last mesh",
}
SAMPLE_SECONDS = 0.5

Shares = Mapping[str, float | None]
"""By part, as the columns of SCALING say, from 0 to 1; None where a part was not used or cannot be measured."""


def bound(busy: Shares, waits: Mapping[str, float]) -> str:
    """The part that bounds the rest; where none is busy enough, what the meshes waited for most, 'unknown' without data.

    waits: shares of the meshes' time that they waited, by what for (keys of WAITING).
    """
    share, name = max((share, name) for name, share in busy.items() if share is not None)
    if (busy["device"] or 0.0) >= BOUND:
        return "device"  # whatever else is busy keeps up with it
    if share >= BOUND:
        return name.replace("_", " ")
    wait, reason = max(((share, reason) for reason, share in waits.items()), default=(0.0, ""))
    return f"{reason} ({wait:.0%} of mesh time waiting {WAITING[reason]})" if wait else "unknown"


class Traffic(NamedTuple):
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

    def end(self) -> Shares:
        driver = (time.process_time() - self._cpu) / (time.monotonic() - self._at)
        self._ended.set()
        after = self._traffic()
        network = busiest(self._before, after) if self._before and after else None
        return {"driver": driver, "network": network, "object_store": self._store or None}

    def _traffic(self) -> list[Traffic]:
        """Of every host; empty when one does not answer."""
        probe = ray.remote(num_cpus=0, max_retries=0)(read_traffic)
        asked = [probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, soft=False)).remote() for n in self._nodes]
        try:
            return ray.get(asked, timeout=30)
        except ray.exceptions.RayError:
            return []

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


def read_traffic() -> Traffic:
    """This host's interfaces but the loopback."""
    bits = {name: link.speed * 1e6 for name, link in psutil.net_if_stats().items()}  # 0 where an interface has none to tell
    counted = psutil.net_io_counters(pernic=True).items()
    found = {name: (n.bytes_recv, n.bytes_sent, bits.get(name) or None) for name, n in counted if name != "lo"}
    return Traffic(time.monotonic(), found)
