"""A model of the pipeline for clusters that are not at hand: FPS, what bounds it, and how many decode cores to add.

python -m jobs.projection [--cores 32] [--network 25] [--shard-images 10000] ...

Every part of the pipeline works at the same time, so a run takes as long as the part that needs longest. What a part
needs is arithmetic on the figures below, each measured or published, and none of them on the cluster in question.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, get_args, get_type_hints

from jobs.pipeline.chunk import CHUNK_IMAGES
from jobs.pipeline.placement import MESH_CALLS, decode_tasks
from jobs.running.command import run
from vit_actor.device_time import T3000_IMAGES_PER_SECOND
from vit_actor.errors import UserError

TABLE = (1, 4, 16, 64, 1000)
"""LoudBoxes of the table's rows."""

BLOCKS_PER_TASK = 3
"""Chunks a decode task can have: one it decodes, and the two that Ray Data lets wait for their reader."""

COMMITS = MESH_CALLS - 2
"""Chunks a mesh's actor can be writing at once while one computes and one is on its way in."""


@dataclass(frozen=True)
class System:
    """What is projected; figures of time are of one core or one call."""

    loudboxes: int = 1
    streams: Annotated[int, "of the job, each with a share of the LoudBoxes and of the shards"] = 1
    helper_cores: Annotated[int, "cores of hosts without a mesh that decode too, in all"] = 0
    cores: Annotated[int, "cores of a LoudBox"] = 32
    actor_cores: Annotated[float, "cores of a LoudBox that its mesh's actor reserves"] = 1.0
    network: Annotated[float, "Gbit/s of a LoudBox's link, each way"] = 25.0
    mesh_fps: Annotated[float, "images/s of a mesh: eight times an n300 chip's published 1,323"] = float(T3000_IMAGES_PER_SECOND)
    batch_images: Annotated[int, "images a batch"] = 64
    decode_fps: Annotated[float, "images/s a core reads and decodes: measured on 500x375 JPEGs, one core"] = 900.0
    encoded_bytes: Annotated[float, "bytes of an encoded image: ImageNet-1k's average"] = 110_000.0
    pixel_bytes: Annotated[float, "bytes of a decoded image: 224 x 224 x 3"] = 150_528.0
    local: Annotated[float, "share of what a LoudBox decodes that its own mesh classifies: 0 is the worst case"] = 0.0
    driver_seconds: Annotated[float, "CPU time a chunk costs its stream's process: measured, two busy cores"] = 0.01
    commit_seconds: Annotated[float, "writing a chunk's predictions: a round trip to an object store, assumed"] = 0.05
    report_seconds: Annotated[float, "reading a predictions file for the reports: measured, one core, local disk"] = 0.0016
    images: Annotated[int, "images to classify"] = 10**9
    shard_images: Annotated[int, "images of a shard: one task reads it from end to end"] = 10_000


@dataclass(frozen=True)
class Projection:
    """seconds: from first to last batch, start-up excluded. bound: the part that takes that long.

    helper_cores: to add until decoding no longer bounds. files: of predictions, before they are put into files of a million
    rows. object_store: bytes a LoudBox's must hold at most. report_seconds: of counting, on all cores of the LoudBoxes.
    """

    seconds: float
    fps: float
    bound: str
    helper_cores: int
    files: int
    object_store: float
    report_seconds: float


def project(system: System) -> Projection:
    """Raises UserError for a system without LoudBoxes, cores or images."""
    s = system
    decode_slots = s.loudboxes * math.floor(s.cores - s.actor_cores) + s.helper_cores
    if min(s.loudboxes, s.streams, s.images, s.shard_images, s.batch_images, decode_slots) < 1 or s.streams > s.loudboxes:
        raise UserError("a projection needs LoudBoxes, cores for decoding, images, and no more streams than LoudBoxes")
    if not (min(s.network, s.mesh_fps, s.decode_fps, s.encoded_bytes, s.pixel_bytes) > 0 and 0 <= s.local <= 1):
        raise UserError("a projection needs rates and sizes above 0, and a local share from 0 to 1")
    shards = math.ceil(s.images / s.shard_images)
    per_shard = min(s.images, s.shard_images)
    files = shards * math.ceil(per_shard / CHUNK_IMAGES)

    # A short batch takes as long as a full one, a chunk is of one mesh and a shard of one core: the last ones leave others idle.
    batches = per_shard // CHUNK_IMAGES * math.ceil(CHUNK_IMAGES / s.batch_images)
    batches += math.ceil(per_shard % CHUNK_IMAGES / s.batch_images)
    needs = {
        "device": math.ceil(files / s.loudboxes) / files * shards * batches * s.batch_images / s.mesh_fps,
        "decode cores": math.ceil(shards / decode_slots) * per_shard / s.decode_fps,
        "network": s.images / _network_fps(s),
        "driver": files * s.driver_seconds / s.streams,
        "commits": files * s.commit_seconds / (COMMITS * s.loudboxes),
    }
    bound = max(needs, key=lambda part: needs[part])
    seconds = needs[bound]
    others = max(need for part, need in needs.items() if part != "decode cores")
    shards_a_core = max(1, math.floor(others * s.decode_fps / per_shard))
    return Projection(
        seconds=seconds,
        fps=s.images / seconds,
        bound=bound,
        helper_cores=max(0, math.ceil(shards / shards_a_core) - decode_slots),
        files=files,
        object_store=(MESH_CALLS + 1 + BLOCKS_PER_TASK * decode_tasks(s.cores - s.actor_cores)) * CHUNK_IMAGES * s.pixel_bytes,
        report_seconds=files * s.report_seconds / (s.loudboxes * s.cores),
    )


def enough_streams(system: System) -> System:
    """The same with as few streams as keep the driver and the commits from being what bounds it.

    Decoding is left out: what it lacks, helper cores can give.
    """
    fed = replace(system, streams=1, helper_cores=system.helper_cores + system.images)
    while fed.streams < fed.loudboxes and project(fed).bound in ("driver", "commits"):
        fed = replace(fed, streams=fed.streams + 1)
    return replace(system, streams=fed.streams)


def _network_fps(s: System) -> float:
    """Images/s of all LoudBoxes for what their links carry in: encoded images, and pixels decoded elsewhere."""
    link = s.network * 1e9 / 8
    here = s.encoded_bytes + (1 - s.local) * s.pixel_bytes
    decoded_here = math.floor(s.cores - s.actor_cores) * s.decode_fps
    if decoded_here * here >= link:
        return s.loudboxes * link / here
    return s.loudboxes * (decoded_here + (link - decoded_here * here) / s.pixel_bytes)


def markdown(system: System) -> str:
    """The projection as a Markdown table, one row a number of LoudBoxes, under a line that says what it is."""
    lines = [
        f"**A projection, not a measurement**, of {system.images:,} images in shards of {system.shard_images:,} "
        f"on LoudBoxes of {system.cores} cores and {system.network:g} Gbit/s.",
        "",
        "| LoudBoxes | one stream: FPS | bound by | streams | FPS | bound by | helper cores to add | time "
        "| prediction files | object store a host | report |",
        "|--:|--:|---|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for loudboxes in TABLE:
        one = replace(system, loudboxes=loudboxes)
        many = enough_streams(one)
        alone, p = project(one), project(many)
        lines.append(
            f"| {loudboxes:,} | {alone.fps:,.0f} | {alone.bound} | {many.streams:,} | {p.fps:,.0f} | {p.bound} "
            f"| {p.helper_cores:,} | {_duration(p.seconds)} | {p.files:,} | {p.object_store / 1e9:.1f} GB "
            f"| {_duration(p.report_seconds)} |"
        )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.projection", description=__doc__.split("\n\n")[0])
    hints = get_type_hints(System, include_extras=True)
    for each in fields(System):
        if each.name not in ("loudboxes", "streams"):
            kind, meaning = get_args(hints[each.name])
            flag = f"--{each.name.replace('_', '-')}"
            parser.add_argument(flag, type=kind, default=each.default, metavar="N", help=f"{meaning} (default: %(default)s)")
    print(markdown(System(**vars(parser.parse_args(arguments)))))
    return 0


if __name__ == "__main__":
    run(main)
