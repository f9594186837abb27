"""Drive every mesh with random images and no preprocessing: inference time, FPS and compile time of the devices alone.

python -m jobs.synthetic --out s3://bucket/synthetic-1 --device t3000
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from jobs.measuring.meshes import Measured, Work, drive_together, start_meshes, system_fps
from jobs.reporting.columns import described
from jobs.running import command
from jobs.running.manifest import Manifest, check_free
from jobs.running.session import ray_session
from jobs.settings import SyntheticSettings
from jobs.storage.failure import storage_errors
from jobs.storage.files import open_storage, write_table
from vit_actor.checkpoint import load_checkpoint

# The MLPerf offline scenario's least length and sample count; below them a figure says little about a sustained rate.
LEAST_SECONDS, LEAST_IMAGES, LEAST_ITERATIONS = 60.0, 24_576, 100

MESHES = described(
    {
        "mesh": (pa.string(), "one row a mesh, and 'system' for all together"),
        "images": (pa.int64(), "timed images, warm-up excluded"),
        "iterations": (pa.int64(), "timed iterations; one is one batch of one mesh"),
        "batch_size": (pa.int32(), "images an iteration"),
        "inference_ms": (pa.float64(), "average wall time of an iteration"),
        "p50_ms": (pa.float64(), "median wall time of an iteration"),
        "p90_ms": (pa.float64(), "90th percentile"),
        "p99_ms": (pa.float64(), "99th percentile"),
        "fps": (pa.float64(), "images per second, warm-up's last answer to last answer; the device and its host loop only"),
        "compile_seconds": (pa.float64(), "weights, compilation and trace; the slowest mesh for the system"),
        "host_ms": (pa.float64(), "CPU time of the thread that drives the device, per iteration"),
        "host_share": (pa.float64(), "host_ms / inference_ms: hidden under device time while below 1"),
        "seed": (pa.int64(), "of the random images; null for the system"),
        "too_short": (pa.string(), "why a figure of this length should not be quoted; null where it may be"),
        "description": (pa.string(), "what ran; starts with 'simulated' where nothing did"),
    }
)

ITERATIONS = described(
    {
        "mesh": (pa.string(), "the mesh"),
        "started_at": (pa.timestamp("us", tz="UTC"), "when the device took the batch"),
        "seconds": (pa.float64(), "wall time, from the previous completion or its own start to its completion"),
    }
)


def main(arguments: list[str] | None = None) -> int:
    settings = parse(arguments)
    checkpoint = load_checkpoint(settings.model)
    check_free(settings.out, overwrite=settings.overwrite)  # before Ray, which takes seconds to start
    with ray_session(settings.address):
        placement = settings.place(checkpoint)
        work = work_on(placement.device, settings)
        decisive = {**settings.saved(), **vars(work), "device": placement.device}
        manifest = Manifest.of("synthetic", settings, checkpoint, data="random images", settings=decisive)
        with manifest.single_attempt(settings.out, overwrite=settings.overwrite):
            request, shape = settings.request(checkpoint, placement), checkpoint.preprocess.shape
            meshes = start_meshes(placement, request, shape, seed=settings.seed, wait_seconds=settings.wait)
            measured = drive_together(meshes, work)
    table = mesh_table(measured, settings.seed)
    write(settings.out, manifest.run_id, table, measured)
    print(terminal_table(table))
    return 0


def work_on(device: str, settings: SyntheticSettings) -> Work:
    """What was asked for; on hardware no less than the rule says, unless less was asked for."""
    least_seconds, least_images = (LEAST_SECONDS, LEAST_IMAGES) if device == "t3000" else (0.0, 0)
    seconds = least_seconds if settings.seconds is None else settings.seconds
    return Work(seconds, settings.images or least_images, settings.iterations, settings.warmup)


def parse(arguments: list[str] | None) -> SyntheticSettings:
    """Settings from a command's arguments."""
    return command.parse(SyntheticSettings, arguments, "jobs.synthetic", __doc__)


def mesh_table(measured: list[Measured], seed: int) -> pa.Table:
    """One row (schema MESHES) a mesh, then one for the system."""
    rows = [_row(m.mesh, [m], m.fps, seed + i) for i, m in enumerate(measured)]
    return pa.Table.from_pylist([*rows, _row("system", measured, system_fps(measured), None)], schema=MESHES)


def _row(name: str, measured: list[Measured], fps: float, seed: int | None) -> dict[str, Any]:
    milliseconds = np.concatenate([m.seconds for m in measured]) * 1e3
    host = sum(m.host_seconds for m in measured) * 1e3 / len(milliseconds)
    return {
        "mesh": name,
        "images": sum(m.images for m in measured),
        "iterations": len(milliseconds),
        "batch_size": measured[0].batch_size,
        "inference_ms": milliseconds.mean(),
        **{f"p{percent}_ms": np.percentile(milliseconds, percent) for percent in (50, 90, 99)},
        "fps": fps,
        "compile_seconds": max(m.compile_seconds for m in measured),
        "host_ms": host,
        "host_share": host / milliseconds.mean(),
        "seed": seed,
        "too_short": "; ".join(shortcomings(measured)) or None,
        "description": measured[0].description,
    }


def shortcomings(measured: list[Measured]) -> list[str]:
    """Why a figure of this length should not be quoted; empty when it may be."""
    least = min(measured, key=lambda m: m.images)
    lasted, iterations = least.ended_at - least.began_at, len(least.seconds)
    return [
        *([f"{iterations} iterations, below {LEAST_ITERATIONS}"] if iterations < LEAST_ITERATIONS else []),
        *([f"{lasted:.1f} s, below {LEAST_SECONDS:g} s"] if lasted < LEAST_SECONDS else []),
        *([f"{least.images:,} images a mesh, below {LEAST_IMAGES:,}"] if least.images < LEAST_IMAGES else []),
    ]


def write(out: str, run_id: str, table: pa.Table, measured: list[Measured]) -> None:
    """`<out>/report/synthetic.parquet` and `iterations.parquet`."""
    names = np.repeat([m.mesh for m in measured], [len(m.seconds) for m in measured])
    started_at = (np.concatenate([m.started_at for m in measured]) * 1e6).astype("int64").astype("datetime64[us]")
    columns = [names, started_at, np.concatenate([m.seconds for m in measured])]
    iterations = pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, ITERATIONS.types, strict=True)], schema=ITERATIONS
    )
    filesystem, path = open_storage(out)
    with storage_errors(out):
        write_table(filesystem, f"{path}/report/synthetic.parquet", table.replace_schema_metadata({"run_id": run_id}))
        write_table(filesystem, f"{path}/report/iterations.parquet", iterations)


def terminal_table(table: pa.Table) -> str:
    """The rows of MESHES for a terminal, aligned, with a warning where they are not to be quoted."""
    lines = [f"{'mesh':<24}{'FPS':>10}{'inference':>12}{'p50':>9}{'p90':>9}{'p99':>9}{'compile':>10}{'host':>9}"]
    for row in table.to_pylist():
        lines.append(
            f"{row['mesh']:<24}{row['fps']:>10,.1f}{row['inference_ms']:>9.2f} ms{row['p50_ms']:>9.2f}{row['p90_ms']:>9.2f}"
            f"{row['p99_ms']:>9.2f}{row['compile_seconds']:>8.2f} s{row['host_share']:>8.1%}"
        )
    told = "host: CPU time of the loop that drives it, as a share of the inference time"
    lines.append(f"device: {table['description'][0]}; {told}")
    if short := table["too_short"][-1].as_py():
        lines.append(f"warning: too short to quote ({short})")
    return "\n".join(lines)


if __name__ == "__main__":
    command.run(main)
