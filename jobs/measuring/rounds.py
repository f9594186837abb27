"""One timed round of work on some of the meshes: random images on the devices alone, or a data set through the pipeline."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import ray

from jobs.measuring.meshes import Work, drive_together, system_seconds
from jobs.measuring.utilisation import Shares, Watch
from jobs.pipeline.cache import Cache
from jobs.pipeline.commit import read_footers
from jobs.pipeline.placement import Placement
from jobs.pipeline.plan import Plan
from jobs.pipeline.sources import Source
from jobs.pipeline.stages import committed
from jobs.reporting.schema import WAITS
from jobs.reporting.write import write_reports
from jobs.running.command import JobFailed, root_cause
from jobs.running.ledgers import open_ledger, settle
from jobs.running.manifest import new_run_id, package_versions
from jobs.running.progress import Progress
from jobs.storage.files import open_storage, parquet_files
from vit_actor.checkpoint import Checkpoint
from vit_actor.device import Device
from vit_actor.errors import UserError

OPEN_SECONDS = 600  # Limit for opening all meshes


@dataclass(frozen=True)
class Round:
    """What was measured. images: classified ones. seconds: from first to last batch. description: the device's.

    busy, waits: see `utilisation.bound`.
    """

    images: int
    seconds: float
    description: str
    busy: Shares
    waits: Mapping[str, float] = field(default_factory=dict)

    @property
    def fps(self) -> float:
        return self.images / self.seconds


def on_devices(meshes: list[Any], *, iterations: int, warmup: int) -> Round:
    """Drive every mesh (see start_meshes) with that many batches of random images, after `warmup` batches that do not count.

    Raises JobFailed when a device fails.
    """
    cpu = time.process_time()
    measured = drive_together(meshes, Work(seconds=0, images=0, iterations=iterations, warmup=warmup))
    cpu = time.process_time() - cpu
    seconds = system_seconds(measured)
    busy = {
        "device": sum(m.seconds.sum() for m in measured) / (len(meshes) * seconds),
        "host_loop": max(m.host_seconds / (m.ended_at - m.began_at) for m in measured),
        "driver": cpu / seconds,
    }
    return Round(sum(m.images for m in measured), seconds, measured[0].description, busy)


def through_pipeline(
    source: Source,
    shards: list[bytes],
    checkpoint: Checkpoint,
    open_device: Callable[[], Device],
    *,
    images: int,
    placement: Placement,
    out: str,
    cache: Cache | None,
    limit: float,
) -> Round:
    """Classify a source of so many images on placement.actors meshes into `out`, with reports; measure what was busy.

    limit: seconds after which a silent device is taken to hang.
    Driver, network and object store are measured from the first committed chunk on, when everything has started. Raises
    JobFailed when the run breaks, UserError when it classified nothing.
    """
    ledger, watch = open_ledger(out), Watch()
    if cache:
        ledger.cache_room.remote(math.inf)
    plan = Plan(
        source=source,
        class_names=tuple(checkpoint.class_names),
        shards=ray.put(shards),
        preprocess=checkpoint.preprocess,
        open_device=open_device,
        placement=placement,
        out=out,
        ledger=ledger,
        identity={"run_id": new_run_id(), "attempt": 1, "versions": package_versions()},
        limit_seconds=limit,
        cache=cache,
        wait=partial(wait_for_meshes, ledger, placement.actors, max(limit, OPEN_SECONDS)),  # so that they start together
    )
    chunks = committed(plan)
    try:
        with Progress(images, partial(settle, ledger)) as progress:
            for chunk in islice(chunks, 1):
                progress.add(chunk)
            watch.begin()
            for chunk in chunks:
                progress.add(chunk)
        watched = watch.end()
    except Exception as error:
        raise JobFailed(root_cause(error)) from error
    return _measured(out, placement, watched)


def _measured(out: str, placement: Placement, watched: Shares) -> Round:
    """What a run's report says of the time between its first and its last batch."""
    summary = write_reports(out)
    if not summary.device_fps:
        raise UserError(f"{out}: no image could be classified; look into its report for why")
    classified, seconds = summary.images - summary.errors, summary.active_seconds
    cores = sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]) - placement.actors * placement.cpus
    filesystem, path = open_storage(out)
    files = parquet_files(filesystem, f"{path}/predictions")
    read_seconds = sum(footer["read_cpu_seconds"] for file in files for footer in read_footers(filesystem, file))
    device_seconds = classified / summary.device_fps
    waits = {reason: getattr(summary, f"wait_{reason}_seconds") for reason in WAITS}
    mesh_seconds = sum(waits.values()) + device_seconds
    device, decode = device_seconds / (placement.actors * seconds), read_seconds / (cores * seconds)
    return Round(
        classified,
        seconds,
        summary.devices[0],
        {"device": device, "decode_cores": decode, **watched},
        {reason: waited / mesh_seconds for reason, waited in waits.items()},
    )


def wait_for_meshes(ledger: Any, meshes: int, seconds: float) -> None:
    """Return when so many are open; raises JobFailed after so many seconds."""
    limit = time.monotonic() + seconds
    while len(ray.get(ledger.account.remote())["meshes"]) < meshes:
        if time.monotonic() > limit:
            raise JobFailed(f"{meshes} meshes did not open within {seconds:g} s")
        time.sleep(0.1)
