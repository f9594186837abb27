"""Run the same work on 1, 2, 4, ... and all meshes of the cluster: FPS, efficiency, and what bounds it.

python -m jobs.scaling --out s3://bucket/scaling-1 --device t3000 [--data hf://datasets/ILSVRC/imagenet-1k]
"""

# PYTHON_ARGCOMPLETE_OK
from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.pipeline.labels import NO_LABELS
from jobs.pipeline.placement import Placement
from jobs.pipeline.sources import Source, open_source, surveyed
from jobs.reporting.write import publish
from jobs.running import command
from jobs.running.manifest import Manifest, check_free
from jobs.running.session import ray_session
from jobs.running.terminal import say
from jobs.running.words import counted
from jobs.settings import ScalingSettings
from jobs.storage.address import below, shown
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.errors import UserError

if TYPE_CHECKING:
    from jobs.measuring.rounds import Round

ITERATIONS = {"t3000": 2000}  # Batches a mesh at the largest size: 12 s at the rate assumed for a T3000
FEW_ITERATIONS = 100
SIDE_BY_SIDE = 4  # Meshes on one host without boards: at most so many on its cores, so many simulated ones

Measure = Callable[[int, int, int], "Round"]
"""Run one round: (meshes, work in all, number of the round) -> what was measured. The unit of work is the measure's own."""


def main(arguments: list[str] | None = None) -> int:
    from jobs.measuring.scaling_table import scaling_table, shortcoming, terminal_table, verdict

    settings = command.parse(ScalingSettings, arguments, "jobs.scaling", __doc__)
    checkpoint = load_checkpoint(settings.model)
    images = 0
    if settings.data:
        found = surveyed(_source(settings, checkpoint, settings.limit)).images
        images = found if found is not None else settings.limit or 0
        if found is None and not settings.limit:
            raise UserError(f"--data {settings.data}: how many images it holds is known only once it is read; pass --limit")
    check_free(settings.out, overwrite=settings.overwrite)  # before Ray, which takes seconds to start
    with ray_session(settings.address, needed=("ray.data",) if settings.data else ()):
        placement = placement_of(settings, checkpoint)
        sizes = mesh_counts(placement.actors)
        if settings.data and images < sizes[-1]:
            raise UserError(f"--data {settings.data}: {images} images for {sizes[-1]} meshes; give more images or fewer --meshes")
        data = shown(settings.data) if settings.data else "random images"
        if settings.cache:
            data += f", decoded images kept in {shown(settings.cache)}"
        decisive = {**settings.saved(), "device": placement.device, "meshes": placement.actors}
        manifest = Manifest.of("scaling", settings, checkpoint, data=data, settings=decisive)
        with manifest.single_attempt(settings.out, overwrite=settings.overwrite):
            if settings.data:
                measure, total = _pipeline(settings, checkpoint, placement, images), images
            else:
                measure, total = _devices(settings, checkpoint, placement, sizes)
            table = scaling_table(interleave(measure, sizes, total, settings.rounds), manifest.data)
            from jobs.reporting.page.measured import scaling_page

            page = scaling_page(manifest, table.to_pylist(), verdict(table), shortcoming(table))
            publish(settings.out, {"scaling": table.replace_schema_metadata({"run_id": manifest.run_id})}, page)
    print(terminal_table(table))
    say(f"report: {below(settings.out, 'report.html')}")
    return 0


def placement_of(settings: ScalingSettings, checkpoint: Checkpoint) -> Placement:
    """Where the meshes run. On one host without boards they run side by side, each with its share of the cores."""
    alone = replace(settings, meshes=None).place(checkpoint)
    if alone.boards or alone.actors > 1:
        return settings.place(checkpoint)
    meshes = settings.meshes or (min(alone.threads, SIDE_BY_SIDE) if alone.device == "cpu" else SIDE_BY_SIDE)
    if alone.device == "cpu" and meshes > alone.threads:
        raise UserError(f"--meshes {meshes}: the one host has {alone.threads} cores for meshes; give at most as many")
    slower = alone.threads / (threads := max(1, alone.threads // meshes))
    cpus = alone.cpus if settings.cpus_per_actor else math.floor(alone.cpus / meshes * 1e4) / 1e4  # what Ray can count
    return replace(alone, actors=meshes, cpus=cpus, threads=threads, chunk_seconds=slower * alone.chunk_seconds)


def mesh_counts(largest: int) -> list[int]:
    return [*(2**k for k in range((largest - 1).bit_length())), largest]


def interleave(measure: Measure, sizes: list[int], total: int, rounds: int) -> dict[tuple[str, int], list[Round]]:
    """The rounds of each (kind of scaling, meshes), all sizes in turn, so that drift hits all alike.

    total: work of the largest size; weak scaling gives the others their share, strong scaling all of it. Sizes where both ask
    for the same work run once for both.
    """
    asked = {("weak", n): (n, total * n // sizes[-1]) for n in sizes} | {("strong", n): (n, total) for n in sizes}
    measured: dict[tuple[int, int], list[Round]] = {case: [] for case in sorted(set(asked.values()))}
    for number in range(rounds):
        for (n, work), done in measured.items():
            done.append(measure(n, work, number))
            say(f"round {number + 1}, {counted(n, 'mesh')}: {done[-1].fps:,.1f} images/s", sys.stderr)
    return {key: measured[case] for key, case in asked.items()}


def _devices(settings: ScalingSettings, checkpoint: Checkpoint, placement: Placement, sizes: list[int]) -> tuple[Measure, int]:
    """Random images; the unit of work is one batch on one mesh."""
    from jobs.measuring.meshes import start_meshes
    from jobs.measuring.rounds import on_devices

    request = settings.request(checkpoint, placement)
    meshes = start_meshes(placement, request, checkpoint.preprocess.shape, seed=settings.seed, wait_seconds=settings.wait)
    # A multiple of every size, so that no mesh has a batch more than another.
    whole = math.lcm(*sizes)
    total = -(-(settings.iterations or ITERATIONS.get(placement.device, FEW_ITERATIONS)) * sizes[-1] // whole) * whole

    def measure(n: int, batches: int, number: int) -> Round:
        return on_devices(meshes[:n], iterations=batches // n, warmup=settings.warmup)

    return measure, total


def _pipeline(settings: ScalingSettings, checkpoint: Checkpoint, placement: Placement, total: int) -> Measure:
    """The whole pipeline; the unit of work is one image. Every round is a run of its own in <out>/runs, as others are.

    One that does not count comes first: in it Ray starts the processes that the others find running.
    """
    from jobs.measuring.rounds import through_pipeline
    from jobs.pipeline.cache import Cache

    @functools.cache  # the survey lists the data set
    def opened(images: int) -> tuple[Source, list[bytes], Cache | None]:
        source = _source(settings, checkpoint, images)
        found = surveyed(source)
        key = found.fingerprint, checkpoint.preprocess, checkpoint.class_names
        return source, found.shards, Cache.of(settings.cache, *key) if settings.cache else None

    def run_as(name: str, n: int, images: int) -> Round:
        source, shards, cache = opened(images)
        mine = replace(placement, actors=n, grows=False)
        out = below(settings.out, f"runs/{name}")
        request = settings.request(checkpoint, placement)
        return through_pipeline(
            source, shards, checkpoint, request,
            images=images, placement=mine, out=out, cache=cache, limit=settings.device_limit,
        )  # fmt: skip

    run_as("warm-up", placement.actors, total)
    return lambda n, images, number: run_as(f"{n}-meshes-{images}-images-{number + 1}", n, images)


def _source(settings: ScalingSettings, checkpoint: Checkpoint, limit: int | None) -> Source:
    assert settings.data  # else there is no pipeline to run
    return open_source(settings.data, checkpoint_classes=checkpoint.class_names, labels=NO_LABELS, limit=limit)


if __name__ == "__main__":
    command.run(main)
