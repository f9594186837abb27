"""The arguments that every job takes: where results go, and what they run on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from jobs.pipeline.placement import Placement, place
from jobs.storage.address import absolute, is_submitted, path_of
from vit_actor.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, hub_token
from vit_actor.opening import DeviceRequest, check_precision
from vit_actor.simulated import SimulatedTiming


def add_out_arguments(parser: argparse.ArgumentParser) -> None:
    """Where results go."""
    add = parser.add_argument
    add("--out", required=True, help="directory or URI for the results")
    add("--overwrite", action="store_true", help="replace the run in --out")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """What runs, on which device, in which cluster."""
    add = parser.add_argument
    add("--model", default=DEFAULT_CHECKPOINT, help="checkpoint directory or hub id (default: %(default)s)")
    add("--device", choices=("auto", "t3000", "cpu", "simulated"), default="auto", help="default: t3000 if present, else cpu")
    add(
        "--precision",
        choices=("auto", "fp32", "fast", "accurate"),
        default="auto",
        help="on boards fast or accurate, on CPU auto or fp32 (default: %(default)s, the best that costs no accuracy)",
    )
    add("--batch-size", type=positive, default=64, metavar="N", help="images per batch on CPU (a T3000 takes 8 per chip)")
    add("--simulate", default="", metavar="SPEC", help="timing of --device simulated, such as compute=10ms,upload=5ms")
    add("--address", help="Ray cluster, host:port (default: RAY_ADDRESS, else Ray on this machine)")
    add("--meshes", type=positive, metavar="N", help="use at most N meshes (default: all)")
    add("--boards-per-mesh", type=positive, default=4, metavar="N", help="PCIe boards a mesh takes: 4 on a T3000, 1 for an n300")
    add("--cpus-per-actor", type=float, metavar="N", help="CPUs each actor reserves (default: from the model's size)")
    add("--wait", type=seconds, default=60, metavar="S", help="seconds to wait for busy resources (default: %(default)s)")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with one line for arguments that contradict each other; raises UserError for a timing that makes no sense.

    Relative paths become absolute ones, where that is right for the workers.
    """
    for name, value in vars(args).items():
        if isinstance(value, str) and not value.isprintable():
            parser.error(f"--{name.replace('_', '-')} {value!a}: not printable text in UTF-8; rename it, or give a link to it")
    if args.simulate and args.device != "simulated":
        parser.error(f"--simulate goes with --device simulated, not {args.device}")
    SimulatedTiming.from_spec(args.simulate)
    if args.device != "auto":
        check_precision(args.device, args.precision)  # before Ray, which takes seconds to start
    if any(str(value).startswith("hf://") for value in vars(args).values()):
        hub_token()
    if is_submitted() and "://" not in args.out and not os.path.isabs(os.path.expanduser(args.out)):
        parser.error(f"--out {args.out}: relative to a submitted job's copy, which is deleted; give an absolute path or a URI")
    if args.model.startswith("file:"):
        args.model = path_of(args.model)
    for name in ("out", "data", "model", "cache"):
        path = getattr(args, name, None)
        if path and (name != "model" or model_directory(args)):  # else a hub's id
            setattr(args, name, absolute(path))


def model_directory(args: argparse.Namespace) -> str | None:
    """Where --model is, if it is a directory and no hub's id."""
    return args.model if Path(os.path.expanduser(args.model)).is_dir() else None


def placement_for(args: argparse.Namespace, checkpoint: Checkpoint) -> Placement:
    """Where the job runs in the cluster that is connected; raises UserError as `place` and `check_precision` do."""
    placement = place(
        args.device,
        boards=args.boards_per_mesh,
        meshes=args.meshes,
        flops_per_image=checkpoint.flops,
        cpus_per_actor=args.cpus_per_actor,
        wait_seconds=args.wait,
        batch_seconds=SimulatedTiming.from_spec(args.simulate).compute,
    )
    check_precision(placement.device, args.precision)
    return placement


def device_request(
    args: argparse.Namespace, checkpoint: Checkpoint, placement: Placement, held: tuple[int, ...] | None = None
) -> DeviceRequest:
    """What an actor opens, from the arguments and where they were placed. held: as DeviceRequest has it."""
    return DeviceRequest(
        device=placement.device,
        name=checkpoint.name,
        path=checkpoint.path,
        digest=checkpoint.digest,
        classes=checkpoint.config.num_labels,
        batch_size=args.batch_size,
        threads=placement.threads,
        precision=args.precision,
        simulate=args.simulate,
        held=held,
        open_seconds=getattr(args, "device_limit", 120.0),
    )


def positive(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def seconds(text: str) -> float:
    """argparse type: a duration that ends."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def size(text: str) -> int:
    """argparse type: '50GB' -> 50 * 10^9 bytes."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if text.upper().endswith(unit):
            return round(float(text[: -len(unit)]) * factor)
    raise argparse.ArgumentTypeError(f"{text}: give a number and MB, GB or TB, such as 50GB")


def share_or_count(text: str) -> int | float:
    """argparse type: '5' -> 5 images; '1%' -> 0.01 of the images."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: give a number of images or a percentage such as 1%") from None
