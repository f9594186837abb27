"""Drive every mesh with random images and no preprocessing: inference time, FPS and compile time of the devices alone.

python -m jobs.synthetic --out s3://bucket/synthetic-1 --device t3000
"""

# PYTHON_ARGCOMPLETE_OK
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.measuring.loadgen import check_installed, faults, referee, terminal_lines
from jobs.measuring.meshes import Measured, Work, drive_together, start_meshes, system_fps
from jobs.reporting.columns import described
from jobs.reporting.write import publish
from jobs.running import command
from jobs.running.command import JobFailed
from jobs.running.manifest import Manifest, check_free
from jobs.running.session import ray_session
from jobs.running.terminal import say
from jobs.settings import SyntheticSettings
from jobs.storage.address import below
from jobs.storage.failure import storage_errors
from jobs.storage.files import open_storage, write_atomically
from vit_actor.checkpoint import load_checkpoint
from vit_actor.errors import UserError

# The least that MLPerf Inference's rules ask of a run in the offline scenario; anything shorter is only a quick look.
LEAST_SECONDS, LEAST_IMAGES = 600.0, 24_576
LEAST_ITERATIONS = 100  # What percentiles need
IMAGES_PER_CHIP = (1, 2, 4, 8, 16)  # Of a sweep
QUICK_SECONDS = 10.0  # Of the job's own loop where LoadGen measures, or where several sizes are compared, on hardware
MESHES = described(
    ("mesh", pa.string(), "one row a mesh, and 'system' for all together; in a sweep the images per chip"),
    ("images", pa.int64(), "timed images, warm-up excluded"),
    ("iterations", pa.int64(), "timed iterations; one is one batch of one mesh"),
    ("batch_size", pa.int32(), "images an iteration"),
    ("inference_ms", pa.float64(), "average wall time of an iteration"),
    ("p50_ms", pa.float64(), "median wall time of an iteration"),
    ("p90_ms", pa.float64(), "90th percentile"),
    ("p99_ms", pa.float64(), "99th percentile"),
    ("latency_p50_ms", pa.float64(), "median time from when the device took a batch to its answer, others before it included"),
    ("latency_p99_ms", pa.float64(), "99th percentile"),
    ("fps", pa.float64(), "images per second, warm-up's last answer to last answer; the device and its host loop only"),
    ("compile_seconds", pa.float64(), "weights, compilation and trace; the slowest mesh for the system"),
    ("host_ms", pa.float64(), "CPU time of the thread that drives the device, per iteration"),
    ("host_share", pa.float64(), "host_ms / inference_ms: hidden under device time while below 1"),
    ("seed", pa.int64(), "of the random images; null for the system"),
    ("too_short", pa.string(), "why a figure of this length should not be quoted; null where it may be"),
    ("description", pa.string(), "what ran; starts with 'simulated' where nothing did"),
)

ITERATIONS = described(
    ("mesh", pa.string(), "the mesh"),
    ("started_at", pa.timestamp("us", tz="UTC"), "when the device took the batch"),
    ("seconds", pa.float64(), "wall time, from the previous completion or its own start to its completion"),
)


def main(arguments: list[str] | None = None) -> int:
    settings = command.parse(SyntheticSettings, arguments, "jobs.synthetic", __doc__)
    checkpoint = load_checkpoint(settings.model)
    check_free(settings.out, overwrite=settings.overwrite)  # before Ray, which takes seconds to start
    if settings.loadgen:
        check_installed()
    with ray_session(settings.address):
        placement = settings.place(checkpoint)
        work = work_on(placement.device, settings)
        decisive = {**settings.saved(), **work._asdict(), "device": placement.device}
        manifest = Manifest.of("synthetic", settings, checkpoint, data="random images", settings=decisive)

        def start(sized: SyntheticSettings) -> list[Any]:
            request, shape = sized.request(checkpoint, placement), checkpoint.preprocess.shape
            return start_meshes(placement, request, shape, seed=settings.seed, wait_seconds=settings.wait)

        with manifest.single_attempt(settings.out, overwrite=settings.overwrite):
            told = (sweep if settings.sweep else alone)(settings, work, manifest, start)
    print(told)
    say(f"report: {below(settings.out, 'report.html')}")
    return 0


def work_on(device: str, settings: SyntheticSettings) -> Work:
    """How long to drive each mesh: on hardware no less than the rules say, unless less was asked for."""
    hardware, quick = device == "t3000", settings.sweep or settings.loadgen
    seconds, images = (None, None) if settings.loadgen else (settings.seconds, settings.images)  # which are LoadGen's then
    if seconds is None:
        seconds = (QUICK_SECONDS if quick else LEAST_SECONDS) if hardware else 0.0
    if images is None:
        images = LEAST_IMAGES if hardware and not quick else 0
    return Work(seconds, images, settings.iterations, settings.warmup)


Start = Callable[[SyntheticSettings], list[Any]]  # Meshes with such settings, ready


def alone(settings: SyntheticSettings, work: Work, manifest: Manifest, start: Start) -> str:
    """Drive the meshes, and have LoadGen drive them if that is asked for; lines for the terminal."""
    from jobs.reporting.page.measured import synthetic_page

    meshes = start(settings)
    measured = drive_together(meshes, work)
    table = mesh_table(measured, settings.seed)
    names = np.repeat([m.mesh for m in measured], [len(m.seconds) for m in measured])
    started_at = (np.concatenate([m.started_at for m in measured]) * 1e6).astype("int64").astype("datetime64[us]")
    seconds = np.concatenate([m.seconds for m in measured])
    iterations = pa.table({"mesh": names, "started_at": started_at, "seconds": seconds}, schema=ITERATIONS)
    tables = {"synthetic": table.replace_schema_metadata({"run_id": manifest.run_id}), "iterations": iterations}
    publish(settings.out, tables, synthetic_page(manifest, table.to_pylist(), seconds))
    return "\n".join([terminal_table(table), *(loadgen(settings, meshes, measured) if settings.loadgen else [])])


def loadgen(settings: SyntheticSettings, meshes: list[Any], measured: list[Measured]) -> list[str]:
    """LoadGen's runs, with its logs in `<out>/report/loadgen`: its verdict in lines. Raises JobFailed where they do not pass."""
    seconds, images = settings.seconds or LEAST_SECONDS, settings.images or LEAST_IMAGES
    filesystem, path = open_storage(settings.out)
    with TemporaryDirectory() as folder:
        runs = referee(meshes, measured, Path(folder), seconds=seconds, images=images, seed=settings.seed)
        with storage_errors(settings.out):
            for file in Path(folder).rglob("mlperf_log_*"):
                write_atomically(filesystem, f"{path}/report/loadgen/{file.relative_to(folder)}", file.read_bytes())
    logs = f"LoadGen's logs: {below(settings.out, 'report/loadgen')}"
    if wrong := faults(runs):
        raise JobFailed(f"LoadGen does not pass the run: {'; '.join(wrong)}; {logs}")
    short = [f"{seconds:g} s, below {LEAST_SECONDS:g} s"] * (seconds < LEAST_SECONDS)
    short += [f"{images:,} images, below {LEAST_IMAGES:,}"] * (images < LEAST_IMAGES)
    return [*terminal_lines(runs, system_fps(measured), "; ".join(short)), logs]


def sweep(settings: SyntheticSettings, work: Work, manifest: Manifest, start: Start) -> str:
    """The same work at each number of images per chip: `<out>/report/sweep.parquet` and a page; lines for the terminal."""
    from jobs.reporting.page.measured import sweep_page

    rows: list[dict[str, Any]] = []
    refused: dict[str, UserError] = {}
    cpu = manifest.settings["device"] == "cpu"
    for number in IMAGES_PER_CHIP:
        name = f"{number} per chip"
        try:
            meshes = start(replace(settings, batch_size=number) if cpu else replace(settings, images_per_chip=number))
        except UserError as error:
            refused[name] = error
            continue
        measured = drive_together(meshes, work)
        rows.append(_row(name, measured, system_fps(measured), None))
        del meshes  # their boards are the next size's
    if not rows:
        raise next(iter(refused.values()))
    table = pa.Table.from_pylist(rows, schema=MESHES)
    tables = {"sweep": table.replace_schema_metadata({"run_id": manifest.run_id})}
    publish(settings.out, tables, sweep_page(manifest, table.to_pylist()))
    return "\n".join([terminal_table(table), *(f"{name}: {error}" for name, error in refused.items())])


def mesh_table(measured: list[Measured], seed: int) -> pa.Table:
    """One row (schema MESHES) a mesh, then one for the system."""
    rows = [_row(m.mesh, [m], m.fps, seed + i) for i, m in enumerate(measured)]
    return pa.Table.from_pylist([*rows, _row("system", measured, system_fps(measured), None)], schema=MESHES)


def _row(name: str, measured: list[Measured], fps: float, seed: int | None) -> dict[str, Any]:
    milliseconds, latencies = (np.concatenate([getattr(m, name) for m in measured]) * 1e3 for name in ("seconds", "latencies"))
    host = sum(m.host_seconds for m in measured) * 1e3 / len(milliseconds)
    return {
        "mesh": name,
        "images": sum(m.images for m in measured),
        "iterations": len(milliseconds),
        "batch_size": measured[0].batch_size,
        "inference_ms": milliseconds.mean(),
        **{f"p{percent}_ms": np.percentile(milliseconds, percent) for percent in (50, 90, 99)},
        **{f"latency_p{percent}_ms": np.percentile(latencies, percent) for percent in (50, 99)},
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
    found = [f"{iterations} iterations, below {LEAST_ITERATIONS}"] * (iterations < LEAST_ITERATIONS)
    found += [f"{lasted:.1f} s, below {LEAST_SECONDS:g} s"] * bool(lasted < LEAST_SECONDS)
    return found + [f"{least.images:,} images a mesh, below {LEAST_IMAGES:,}"] * (least.images < LEAST_IMAGES)


def terminal_table(table: pa.Table) -> str:
    """The rows of MESHES for a terminal, aligned, with a warning where they are not to be quoted."""
    lines = [f"{'mesh':<24}{'FPS':>10}{'inference':>12}{'p50':>9}{'p90':>9}{'p99':>9}{'latency':>12}{'compile':>10}{'host':>9}"]
    for row in table.to_pylist():
        lines.append(
            f"{row['mesh']:<24}{row['fps']:>10,.1f}{row['inference_ms']:>9.2f} ms{row['p50_ms']:>9.2f}{row['p90_ms']:>9.2f}"
            f"{row['p99_ms']:>9.2f}{row['latency_p50_ms']:>9.2f} ms{row['compile_seconds']:>8.2f} s{row['host_share']:>8.1%}"
        )
    told = "host: CPU time of the loop that drives it, as a share of the inference time"
    lines.append(f"device: {table['description'][0]}; {told}")
    if short := table["too_short"][-1].as_py():
        lines.append(f"warning: too short to quote ({short})")
    return "\n".join(lines)


if __name__ == "__main__":
    command.run(main)
