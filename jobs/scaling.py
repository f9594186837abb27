"""Run the same work on 1, 2, 4, ... and all meshes of the cluster: FPS, efficiency, and what bounds it.

python -m jobs.scaling --out s3://bucket/scaling-1 --device t3000 [--data hf://datasets/ILSVRC/imagenet-1k]
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pyarrow.fs import FileSelector, FileType

from jobs.arguments import add_device_arguments, add_out_arguments, check_arguments, device_request, positive
from jobs.command import JobFailed, root_cause, run
from jobs.ledger import open_ledger
from jobs.manifest import Manifest, claim, new_run_id, package_versions
from jobs.meshes import Work, drive_together, start_meshes, system_seconds
from jobs.pipeline.commit import FOOTER, Predictions
from jobs.pipeline.sources import EncodedImage, Shard, Source, Survey, open_source
from jobs.pipeline.sources.opening import NO_LABELS
from jobs.pipeline.storage import open_storage, storage_errors, write_atomically, write_table
from jobs.pipeline.stream import classify, read
from jobs.placement import Placement, place
from jobs.report import write_reports
from jobs.session import ray_session
from jobs.utilisation import Utilisation, Watch
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.device import Device
from vit_actor.errors import UserError

LEAST_SECONDS = 10.0
"""A run shorter than this says little: its ramps, some 0.1 s at each end, are more than 1% of it."""

DEVICE_LIMIT = 120.0
"""Seconds after which a silent device is taken to hang."""

OPEN_SECONDS = 600
"""Limit for opening all meshes."""

ITERATIONS = {"t3000": 2000}
"""Batches a mesh at the largest size: 12 s at the published 5.8 ms."""
FEW_ITERATIONS = 100


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": meaning})


SCALING = pa.schema(
    [
        _field("scaling", pa.string(), "weak: the same work per mesh at every size; strong: the same work in all"),
        _field("meshes", pa.int32(), "meshes at work"),
        _field("images", pa.int64(), "images of one round"),
        _field("seconds", pa.float64(), "of the median round, from first to last batch; start-up and compile excluded"),
        _field("fps", pa.float64(), "images / seconds of the median round; the whole system"),
        _field("fps_low", pa.float64(), "of the slowest round"),
        _field("fps_high", pa.float64(), "of the fastest round"),
        _field("rounds", pa.int32(), "times each size ran, the sizes in turn"),
        _field("efficiency", pa.float64(), "fps / (meshes x fps of one mesh), of the same kind of scaling"),
        _field("device", pa.float64(), "share of the median round's time that batches kept the meshes"),
        _field("host_loop", pa.float64(), "CPU time of the busiest thread that drives a device / seconds; null with data"),
        _field("decode_cores", pa.float64(), "CPU time of reading and decoding / (cores Ray has for it x seconds); null without"),
        _field("driver", pa.float64(), "CPU time of the job's own process / seconds"),
        _field("network", pa.float64(), "share of its speed of the interface that carried most; null where not known"),
        _field("object_store", pa.float64(), "largest share of the cluster's object store in use; null where not known"),
        _field("bound", pa.string(), "what of these bounds the FPS; unknown where none is busy enough"),
        _field("too_short", pa.bool_(), f"whether the median round took less than {LEAST_SECONDS:g} s"),
        _field("data", pa.string(), "what was classified: random images reach the devices without any pipeline"),
        _field("description", pa.string(), "what ran; starts with 'simulated' where nothing did"),
    ]
)


@dataclass(frozen=True)
class Sample:
    """One round at one size. seconds: from first to last batch."""

    images: int
    seconds: float
    busy: Utilisation
    description: str

    @property
    def fps(self) -> float:
        return self.images / self.seconds


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    checkpoint = load_checkpoint(args.model)
    images = survey(args, checkpoint) if args.data else 0
    with ray_session(args.address):
        placement = place(
            args.device,
            boards=args.boards_per_mesh,
            meshes=args.meshes,
            flops_per_image=checkpoint.flops,
            cpus_per_actor=args.cpus_per_actor,
            wait_seconds=args.wait,
        )
        sizes = mesh_counts(placement.actors)
        if args.data and images < sizes[-1]:
            raise UserError(f"--data {args.data}: {images} images for {sizes[-1]} meshes; give more images or fewer --meshes")
        manifest = claim(args.out, describe(args, checkpoint, placement), overwrite=args.overwrite)
        manifest.begin_attempt(args.out)
        try:
            if args.data:
                measure, total = _pipeline(args, checkpoint, placement), images
            else:
                measure, total = _devices(args, checkpoint, placement, sizes)
            samples = interleave(measure, sizes, total, args.rounds)
        except BaseException:
            manifest.end_attempt(args.out, "failed")
            raise
        manifest.end_attempt(args.out, "finished")
    table = scaling_table(samples, sizes, total, manifest.data)
    write(args.out, table, manifest.run_id)
    print(terminal_table(table))
    print(f"report: {args.out.rstrip('/')}/report/scaling.svg")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.scaling", description=__doc__.split("\n\n")[0])
    add_out_arguments(parser)
    add_device_arguments(parser)
    add = parser.add_argument
    add("--data", metavar="URI", help="run the whole pipeline on these images (default: random images, the devices alone)")
    add("--limit", type=positive, metavar="N", help="with --data: only the first N images")
    add("--iterations", type=positive, metavar="N", help="without: batches a mesh when all are at work (t3000: 2000, else 100)")
    add("--warmup", type=positive, default=10, metavar="N", help="without: batches before the clock starts (default: 10)")
    add("--rounds", type=positive, default=3, metavar="N", help="times each size runs; medians count (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the random images (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.data and args.iterations:
        parser.error("--iterations is for random images; with --data the work is its images, or the first --limit of them")
    if args.limit and not args.data:
        parser.error("--limit goes with --data; without it give --iterations")
    check_arguments(parser, args)
    return args


def mesh_counts(largest: int) -> list[int]:
    """1, 2, 4, ... and the largest."""
    return [*(2**k for k in range((largest - 1).bit_length())), largest]


def survey(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    """How many images there are to share out."""
    images = _source(args, checkpoint, args.limit).survey().images
    if images is None:
        images = args.limit
    if images is None:
        raise UserError(f"--data {args.data}: how many images it holds is known only once it is read; pass --limit")
    return images


def describe(args: argparse.Namespace, checkpoint: Checkpoint, placement: Placement) -> Manifest:
    settings = {key: getattr(args, key) for key in ("precision", "simulate", "seed", "rounds", "iterations", "warmup", "limit")}
    return Manifest(
        run_id=new_run_id(),
        job="scaling",
        data=args.data or "random images",
        model=args.model,
        model_digest=checkpoint.digest,
        class_names=checkpoint.class_names,
        images=None,
        settings={"device": placement.device, "meshes": placement.actors, **settings},
        versions=package_versions(),
    )


Measure = Callable[[int, int, int], Sample]
"""Run one round: (meshes, work in all, round) -> what was measured. The unit of work is the measure's own."""


def interleave(measure: Measure, sizes: list[int], total: int, rounds: int) -> dict[tuple[int, int], list[Sample]]:
    """Every round at every (meshes, work in all) that weak and strong scaling need, in turn, so that drift hits all alike."""
    cases = sorted({(n, work) for scaling in ("weak", "strong") for n, work in shares(scaling, sizes, total)})
    samples: dict[tuple[int, int], list[Sample]] = {case: [] for case in cases}
    for number in range(rounds):
        for n, work in cases:
            samples[n, work].append(measure(n, work, number))
            print(f"round {number + 1}, {n} meshes: {samples[n, work][-1].fps:,.1f} images/s", file=sys.stderr, flush=True)
    return samples


def shares(scaling: str, sizes: list[int], total: int) -> list[tuple[int, int]]:
    """(meshes, work in all) for each size; the largest has `total` either way."""
    return [(n, total * n // sizes[-1] if scaling == "weak" else total) for n in sizes]


def _devices(args: argparse.Namespace, checkpoint: Checkpoint, placement: Placement, sizes: list[int]) -> tuple[Measure, int]:
    """Random images; the unit of work is one batch on one mesh."""
    meshes = start_meshes(
        placement,
        device_request(args, checkpoint, placement),
        checkpoint.preprocess.shape,
        seed=args.seed,
        wait_seconds=args.wait,
    )
    # A multiple of every size, so that no mesh has a batch more than another.
    whole = math.lcm(*sizes)
    total = -(-(args.iterations or ITERATIONS.get(placement.device, FEW_ITERATIONS)) * sizes[-1] // whole) * whole

    def measure(n: int, batches: int, number: int) -> Sample:
        cpu = time.process_time()
        measured = drive_together(meshes[:n], Work(seconds=0, images=0, iterations=batches // n, warmup=args.warmup))
        cpu = time.process_time() - cpu
        seconds = system_seconds(measured)
        busy = Utilisation(
            device=sum(m.seconds.sum() for m in measured) / (n * seconds),
            host_loop=max(m.host_seconds / (m.ended_at - m.began_at) for m in measured),
            driver=cpu / seconds,
        )
        return Sample(sum(m.images for m in measured), seconds, busy, measured[0].description)

    return measure, total


def _pipeline(args: argparse.Namespace, checkpoint: Checkpoint, placement: Placement) -> Measure:
    """The whole pipeline; the unit of work is one image. Every round is a run of its own in <out>/runs, as others are."""
    filesystem, path = open_storage(args.out)
    if args.overwrite and filesystem.get_file_info(f"{path}/runs").type == FileType.Directory:
        with storage_errors(args.out):
            filesystem.delete_dir(f"{path}/runs")

    def measure(n: int, images: int, number: int) -> Sample:
        return run_pipeline(
            _source(args, checkpoint, images),
            checkpoint,
            device_request(args, checkpoint, placement),
            placement=replace(placement, actors=n, grows=False),
            out=f"{args.out.rstrip('/')}/runs/{n}-meshes-{images}-images-{number + 1}",
        )

    return measure


@dataclass(frozen=True)
class WhenAllAreOpen:
    """A source that nothing is read from before so many meshes are open, so that they start together."""

    source: Source
    ledger: Any
    meshes: int

    def survey(self) -> Survey:
        return self.source.survey()

    def roots(self) -> list[str]:
        return self.source.roots()

    def shards(self, root: str) -> Iterator[Shard]:
        return self.source.shards(root)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        limit = time.monotonic() + OPEN_SECONDS
        while len(ray.get(self.ledger.account.remote())["meshes"]) < self.meshes:
            if time.monotonic() > limit:
                raise JobFailed(f"{self.meshes} meshes did not open within {OPEN_SECONDS} s")
            time.sleep(0.1)
        return self.source.read(shard, wanted)


def run_pipeline(
    source: Source, checkpoint: Checkpoint, open_device: Callable[[], Device], *, placement: Placement, out: str
) -> Sample:
    """Classify a source on placement.actors meshes into `out`, with reports, and measure what was busy meanwhile.

    Driver, network and object store are measured from the first committed chunk on, when everything has started.
    """
    ledger, predictions, watch = open_ledger(out), Predictions(out), Watch()
    chunks = read(
        WhenAllAreOpen(source, ledger, placement.actors),
        preprocess=checkpoint.preprocess,
        predictions=predictions,
        placement=placement,
        ledger=ledger,
        resume=False,
    )
    identity = {"run_id": new_run_id(), "attempt": 1, "versions": package_versions()}
    committed = classify(
        chunks, open_device, predictions, placement=placement, identity=identity, ledger=ledger, limit_seconds=DEVICE_LIMIT
    )
    driver = network = store = None
    try:
        for chunk, _ in enumerate(committed):
            if not chunk:
                watch.begin()
        driver, network, store = watch.end()
    except Exception as error:
        raise JobFailed(root_cause(error)) from error
    summary = write_reports(out)
    if not summary.device_fps:
        raise UserError(f"{out}: no image could be classified; look into its report for why")
    classified_images = summary.images - summary.errors
    cores = sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]) - placement.actors * placement.cpus
    busy = Utilisation(
        device=classified_images / summary.device_fps / (placement.actors * summary.active_seconds),
        decode_cores=_read_cpu_seconds(out) / (cores * summary.active_seconds),
        driver=driver,
        network=network,
        object_store=store,
    )
    return Sample(classified_images, summary.active_seconds, busy, summary.devices[0])


def _source(args: argparse.Namespace, checkpoint: Checkpoint, limit: int | None) -> Source:
    return open_source(args.data, checkpoint_classes=checkpoint.class_names, labels=NO_LABELS, limit=limit)


def _read_cpu_seconds(out: str) -> float:
    """CPU seconds of reading and decoding, from the footers of a run's predictions."""
    filesystem, path = open_storage(out)
    seconds = 0.0
    with storage_errors(out):
        for file in filesystem.get_file_info(FileSelector(f"{path}/predictions", recursive=True)):
            if file.path.endswith(".parquet"):
                with filesystem.open_input_file(file.path) as stream:
                    seconds += json.loads(pq.read_metadata(stream).metadata[FOOTER])["read_cpu_seconds"]
    return seconds


def scaling_table(samples: dict[tuple[int, int], list[Sample]], sizes: list[int], total: int, data: str) -> pa.Table:
    """Schema SCALING: weak scaling by size, then strong."""
    rows = []
    for scaling in ("weak", "strong"):
        one = None
        for n, work in shares(scaling, sizes, total):
            rounds = sorted(samples[n, work], key=lambda sample: sample.fps)
            median = rounds[(len(rounds) - 1) // 2]
            one = one or median.fps
            rows.append(
                {
                    "scaling": scaling,
                    "meshes": n,
                    "images": median.images,
                    "seconds": median.seconds,
                    "fps": median.fps,
                    "fps_low": rounds[0].fps,
                    "fps_high": rounds[-1].fps,
                    "rounds": len(rounds),
                    "efficiency": median.fps / (n * one),
                    **vars(median.busy),
                    "bound": median.busy.bound(),
                    "too_short": median.seconds < LEAST_SECONDS,
                    "data": data,
                    "description": median.description,
                }
            )
    return pa.Table.from_pylist(rows, schema=SCALING)


def verdict(table: pa.Table) -> str:
    """One line: what bounds the largest size, and how busy everything was that could be measured."""
    last = table.to_pylist()[-1]
    parts = ("device", "host_loop", "decode_cores", "driver", "network", "object_store")
    unused = {"host_loop"} if last["host_loop"] is None else {"decode_cores", "network", "object_store"}
    shown = ", ".join(f"{p.replace('_', ' ')} {_percent(last[p])}" for p in parts if p not in unused)
    return f"bound with {last['meshes']} meshes: {last['bound']} (busy: {shown})"


def terminal_table(table: pa.Table) -> str:
    lines = [f"{'scaling':<9}{'meshes':>7}{'images':>11}{'seconds':>10}{'FPS':>12}{'efficiency':>12}{'device':>9}  bound by"]
    for row in table.to_pylist():
        lines.append(
            f"{row['scaling']:<9}{row['meshes']:>7}{row['images']:>11,}{row['seconds']:>10.2f}{row['fps']:>12,.1f}"
            f"{row['efficiency']:>12.1%}{row['device']:>9.1%}  {row['bound']}{'  (too short)' if row['too_short'] else ''}"
        )
    lines.append(f"of: {table['data'][0]}, median of {table['rounds'][0]} rounds")
    lines.append(f"device: {table['description'][0]}")
    lines.append(verdict(table))
    if short := _too_short(table):
        lines.append(f"warning: {short}")
    return "\n".join(lines)


def write(out: str, table: pa.Table, run_id: str) -> None:
    """`<out>/report/scaling.parquet` and `scaling.svg`."""
    filesystem, path = open_storage(out)
    with storage_errors(out):
        write_table(filesystem, f"{path}/report/scaling.parquet", table.replace_schema_metadata({"run_id": run_id}))
        write_atomically(filesystem, f"{path}/report/scaling.svg", plot(table))


def plot(table: pa.Table) -> bytes:
    """FPS and efficiency over the number of meshes, as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), layout="constrained")
    fps, efficiency = figure.subplots(1, 2)
    rows = table.to_pylist()
    sizes = [row["meshes"] for row in rows if row["scaling"] == "weak"]
    for scaling, marker in (("weak", "o"), ("strong", "s")):
        mine = [row for row in rows if row["scaling"] == scaling]
        spread = [[r["fps"] - r["fps_low"] for r in mine], [r["fps_high"] - r["fps"] for r in mine]]
        (line,) = fps.plot(sizes, [row["fps"] for row in mine], marker=marker, label=f"{scaling} scaling")
        fps.errorbar(sizes, [row["fps"] for row in mine], yerr=spread, fmt="none", color=line.get_color(), capsize=3)
        efficiency.plot(sizes, [row["efficiency"] for row in mine], marker=marker, label=f"{scaling} scaling")
    fps.plot(sizes, [n * rows[0]["fps"] for n in sizes], linestyle=":", color="grey", label="one mesh (weak) times meshes")
    efficiency.axhline(1, linestyle=":", color="grey")
    fps.set(ylabel="images per second, whole system", ylim=(0, None))
    efficiency.set(ylabel="efficiency: FPS of N / (N x FPS of 1)", ylim=(0, 1.1))
    for axes in (fps, efficiency):
        axes.set(xlabel="meshes", xscale="log" if sizes[-1] > 8 else "linear", xticks=sizes, xticklabels=sizes)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    simulated = "SIMULATED devices, no measurement of hardware\n" if rows[0]["description"].startswith("simulated") else ""
    short = f"\n{_too_short(table)}" if _too_short(table) else ""
    figure.suptitle(f"{simulated}{rows[0]['data']}: {verdict(table)}{short}", fontsize=9)
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling"}):  # text that can be searched, equal bytes for equal runs
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _too_short(table: pa.Table) -> str:
    """Why some figures should not be quoted; empty when all may be."""
    shortest = min(table["seconds"].to_pylist())
    if shortest >= LEAST_SECONDS:
        return ""
    return f"too short to quote: a round took {shortest:.1f} s, below {LEAST_SECONDS:g} s; raise --iterations or the data"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.0%}"


if __name__ == "__main__":
    run(main)
