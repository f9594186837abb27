"""Where a job runs: which device, how many actors of which size, and what is left for decoding."""

import math
import sys
from dataclasses import dataclass, replace

from jobs.pipeline.chunk import CHUNK_IMAGES
from vit_actor.device_time import T3000_IMAGES_PER_SECOND
from vit_actor.errors import UserError

BOARDS = "TTNPU"  # Ray's own resource for Tenstorrent boards: one per PCIe board
DECODE_SECONDS = 1.1e-3  # Reading and decoding one photo on one core; the ratio to FORWARD_FLOPS is what matters
FORWARD_FLOPS = 60e9  # Useful FLOP/s of one core in the CPU model
MESH_CALLS, CPU_CALLS = 5, 2
"""Chunks an actor works on at once. A mesh takes tens of milliseconds a chunk and needs several on their way in and out while
one computes (three keep it 89% busy, five 96%); a CPU takes seconds and needs only the next one."""
AHEAD_SECONDS = 0.25
"""Work that a device should have waiting. Of a slow one fewer chunks are enough, and what is left is shared out evenly."""
SOON_SECONDS = 1.0  # What Ray may take to find room that there is
SLOW_SECONDS = 0.5  # From so long for a chunk on, a device is slow; 77 MB, a chunk, take a tenth of that between hosts


@dataclass(frozen=True)
class Placement:
    """actors: how many can run now. cpus and boards: what each reserves. decode_cpus: what each decode task reserves.

    grows: whether meshes that join later are used too. threads: that a CPU device computes with.
    chunk_seconds: what a device is expected to take for a chunk.
    """

    device: str
    actors: int
    cpus: float
    boards: int
    decode_cpus: float
    grows: bool = False
    threads: int = 1
    chunk_seconds: float = CHUNK_IMAGES / T3000_IMAGES_PER_SECOND

    @property
    def calls(self) -> int:
        """Chunks that an actor works on at once."""
        return min(CPU_CALLS if self.device == "cpu" else MESH_CALLS, 1 + math.ceil(AHEAD_SECONDS / self.chunk_seconds))

    @property
    def slow(self) -> bool:
        """Whether a chunk goes to the mesh that has least to do, wherever it is: moving it takes less time than waiting."""
        return self.chunk_seconds > SLOW_SECONDS


def place(
    device: str,
    *,
    boards: int,
    meshes: int | None,
    flops_per_image: float,
    cpus_per_actor: float | None,
    wait_seconds: float,
    batch_seconds: float | None = None,
) -> Placement:
    """Fit a device's actors into the cluster that is connected, waiting up to wait_seconds for busy resources.

    device: auto, t3000, cpu or simulated; auto is t3000 where the cluster has the boards, else cpu.
    boards: PCIe boards a mesh takes (4 on a T3000). meshes: at most that many actors; None for all that fit.
    flops_per_image: of the model's forward pass; divides a CPU-only cluster's cores between decoding and the model.
    batch_seconds: what a simulated device takes for 64 images; None for a T3000's time.
    Raises UserError when the cluster does not have what one actor needs, or is still busy after the wait.
    """
    import ray  # here, because every --help needs this module's arguments

    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    offered = [int(host.get(BOARDS, 0)) for host in hosts]
    found = sum(each // boards for each in offered)
    if device == "auto":
        device = "t3000" if found else "cpu"
    if device == "t3000":
        _check_boards(offered, boards)
    cores = [host.get("CPU", 0.0) for host in hosts if host.get("CPU", 0.0) >= 1]
    if not cores:
        raise UserError("the cluster has no CPUs for decoding; start Ray nodes with --num-cpus of at least 1")
    if device == "cpu":
        placement = _place_on_cpus(cores, flops_per_image, cpus_per_actor)
    else:
        cpus = cpus_per_actor if cpus_per_actor is not None else min(1.0, min(cores) / 4)
        decode_cpus = _decode_cpus(min(cores) - cpus)
        placement = Placement(device, found or len(cores), cpus, boards if found else 0, decode_cpus, grows=found > 0)
        if device == "simulated" and batch_seconds is not None:
            placement = replace(placement, chunk_seconds=CHUNK_IMAGES / 64 * batch_seconds)
    if meshes is not None:
        if meshes > placement.actors:
            each = f"{_need(placement)} each" if placement.boards else f"one a host, without boards; it takes {_need(placement)}"
            raise UserError(f"--meshes {meshes}: the cluster has room for {placement.actors} ({each})")
        placement = replace(placement, actors=meshes, grows=False)
    _wait_until_free(placement, wait_seconds)
    return placement


def _check_boards(offered: list[int], boards: int) -> None:
    """Raise UserError unless there are whole meshes of boards. offered: boards of each host."""
    if any(each % boards for each in offered):
        raise UserError(
            f"hosts offer {sorted(set(offered))} {BOARDS}, not whole meshes of {boards} boards: Ray counts every entry of "
            "/dev/tenstorrent, by-id too; start nodes with cluster/start-node.sh, or pass --boards-per-mesh"
        )
    if not any(offered):
        raise UserError(
            f"--device t3000: no host has {boards} free Tenstorrent boards (most found: {max(offered)}); "
            "check /dev/tenstorrent and `ray status`, or pass --device cpu"
        )


def _place_on_cpus(cores: list[float], flops_per_image: float, cpus_per_actor: float | None) -> Placement:
    """One actor a host, with the share of its cores that keeps decoding just ahead of the model."""
    smallest = min(cores)
    model_seconds = flops_per_image / FORWARD_FLOPS
    share = smallest * model_seconds / (model_seconds + DECODE_SECONDS)
    cpus = cpus_per_actor if cpus_per_actor is not None else min(max(round(share * 4) / 4, 0.5), smallest - 0.25)
    rest = smallest - cpus
    if rest <= 0:
        raise UserError(f"--cpus-per-actor {cpus:g} leaves no CPU for decoding (a host has {smallest:g}); pass less")
    # One thread more than its share takes the time that decoding leaves while it waits for the model: 9% and 20% more images/s in
    # two pairs of runs on two cores, with a model that costs about as much as decoding.
    threads = max(1, round(cpus)) if cpus_per_actor is not None else min(max(1, round(cpus)) + 1, int(smallest))
    chunk_seconds = CHUNK_IMAGES * model_seconds / threads
    return Placement("cpu", len(cores), cpus, 0, _decode_cpus(rest), threads=threads, chunk_seconds=chunk_seconds)


def decode_tasks(rest: float) -> int:
    """Decode tasks at once where `rest` CPUs are left for them: a quarter more, and one, since Ray Data takes 0.15 s to hand
    out the next one and a chunk takes 0.6 s."""
    return math.ceil(1.25 * rest) + (rest >= 1)


def _decode_cpus(rest: float) -> float:
    """What each of them reserves, rounded down to what Ray can count."""
    return math.floor(rest / decode_tasks(rest) * 1e4) / 1e4


def _wait_until_free(placement: Placement, wait_seconds: float) -> None:
    """A placement group is on hold until one host has all that an actor needs: what is free over hosts does not tell."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    actor = {name: amount for name, amount in (("CPU", placement.cpus), (BOARDS, placement.boards)) if amount}
    group = placement_group([each for each in (actor, {"CPU": placement.decode_cpus}) if each])
    try:
        if group.wait(min(SOON_SECONDS, wait_seconds)):
            return
        print(f"waiting up to {wait_seconds:g} s for {_need(placement)} to be free on one host", file=sys.stderr, flush=True)
        if group.wait(max(wait_seconds - SOON_SECONDS, 0.01)):
            return
    finally:
        remove_placement_group(group)
    free = ray.available_resources()
    raise UserError(
        f"the cluster is busy: an actor needs {_need(placement)} on one host, decoding {placement.decode_cpus:g} CPU, free are "
        f"{free.get('CPU', 0):g} CPU and {free.get(BOARDS, 0):g} {BOARDS} on all together; wait for other jobs or raise --wait"
    )


def _need(placement: Placement) -> str:
    boards = f"{placement.boards} {BOARDS} and " if placement.boards else ""
    return f"{boards}{placement.cpus:g} CPU"
