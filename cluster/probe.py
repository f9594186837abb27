"""What preflight does on a host itself: look at it, try its storage, and open its mesh."""

import importlib.util
import os
import platform
import socket
import time
from multiprocessing import get_context
from pathlib import Path

from pebble import ProcessExpired, ProcessPool
from pyarrow import fs

from cluster.checks import Check, Host
from cluster.hardware import read_hardware, read_snapshot
from jobs.pipeline.sources import open_source
from jobs.running import machine
from jobs.running.manifest import package_versions
from jobs.running.words import counted
from jobs.storage.address import shown
from jobs.storage.failure import storage_errors
from jobs.storage.files import delete, open_storage, read_whole, write_atomically
from vit_actor.errors import UserError
from vit_actor.opening import DeviceRequest
from vit_actor.self_check import SelfCheck

STAND_INS = ("TT_METAL_SIMULATOR", "TT_METAL_MOCK_CLUSTER_DESC_PATH")  # What ttnn takes its simulator or its mock from
INSTALLATIONS = ("TT_METAL_HOME", "TT_METAL_RUNTIME_ROOT", "TT_METAL_KERNEL_PATH")
"""What tt-metal takes its kernels and tables from, instead of from its own package."""
COMPILER = "compiler/bin/riscv-tt-elf-g++"


def read_host(root: Path = Path("/")) -> Host:
    """This host as it stands, with hardware read below `root`."""
    hardware = read_hardware(root)
    # Where ttnn looks for sfpi: below its own package, then the system's.
    compilers = [*(package / "runtime/sfpi" / COMPILER for package in _ttnn()), root / "opt/tenstorrent/sfpi" / COMPILER]
    return Host(
        name=socket.gethostname(),
        hardware=hardware,
        cores=machine.cpus(root),
        limits=tuple(limits()),
        versions=package_versions() | {"kernel": platform.release()},
        compiler=next((str(path) for path in compilers if os.access(path, os.X_OK)), None),
        snapshot=read_snapshot() if hardware.boards else "no boards",
        visible=os.environ.get("TT_VISIBLE_DEVICES"),
        kernel_cache=_kernel_cache(root),
    )


def limits() -> list[str]:
    """What would keep Ray from running here, in lines with their fixes."""
    told = machine.too_little()
    try:
        machine.place_for_files()
    except OSError as error:
        told.append(str(error))
    installed, fix = next(iter(_ttnn()), None), "unset it in the environment of Ray's nodes"
    told += [f"{name} makes a stand-in look like chips; {fix}" for name in STAND_INS if os.environ.get(name)]
    for name in INSTALLATIONS:
        place = os.environ.get(name)
        if place and installed and not Path(place).resolve().is_relative_to(installed):
            told.append(f"{name}={place} is another tt-metal than ttnn's in {installed}; {fix}")
    return told


def _ttnn() -> list[Path]:
    """Where ttnn is installed, without importing it."""
    spec = importlib.util.find_spec("ttnn")
    return [Path(place).resolve() for place in (spec.submodule_search_locations or [])] if spec else []


def _kernel_cache(root: Path) -> tuple[str, str] | None:
    """Where ttnn keeps compiled kernels, and the type of the filesystem mounted there; None where that is not known."""
    directory = os.environ.get("TT_METAL_CACHE") or os.path.expanduser("~/.cache")
    try:
        mounts = [line.split()[1:3] for line in (root / "proc/mounts").read_text().splitlines()]
    except OSError:
        return None
    above = [(point, kind) for point, kind in mounts if Path(directory).is_relative_to(point.replace("\\040", " "))]
    return (directory, max(above, key=lambda mount: len(mount[0]))[1]) if above else None


def write_mark(uri: str, name: str) -> Check:
    """Write a small file below a directory, local or URI, that every host should share."""
    try:
        filesystem, path = open_storage(uri)
        write_atomically(filesystem, f"{path}/{name}", name.encode())
    except UserError as error:
        return Check("shared storage", "fail", str(error), f"let this host write to {shown(uri)}")
    return Check("shared storage", "pass", "written")


def read_marks(uri: str, names: list[str]) -> Check:
    """Read the files that all hosts wrote: a directory that is not shared lacks those of the others."""
    missing = 0
    try:
        filesystem, path = open_storage(uri)
        with storage_errors(uri):
            for name in names:
                there = filesystem.get_file_info(f"{path}/{name}").type == fs.FileType.File
                missing += not there or read_whole(filesystem, f"{path}/{name}").to_pybytes() != name.encode()
    except UserError as error:
        return Check("shared storage", "fail", str(error), f"let this host read from {shown(uri)}")
    if missing:
        fix = f"mount one file system at {shown(uri)} on every host, or use an object store"
        return Check("shared storage", "fail", f"{missing} of {len(names)} hosts' files are not there", fix)
    return Check("shared storage", "pass", f"{shown(uri)}: files of {counted(len(names), 'host')} written and read")


def remove_mark(uri: str, name: str) -> Check:
    try:
        filesystem, path = open_storage(uri)
        delete(filesystem, f"{path}/{name}")
    except UserError as error:
        return Check("shared storage", "warn", str(error), f"remove {name} by hand")
    return Check("shared storage", "pass", "removed")


def read_first_image(data: str) -> Check:
    """Fetch one image of the data set as a job would; for a gated one that takes the right HF_TOKEN on this host."""
    try:
        source = open_source(data, checkpoint_classes=[], labels="none")
        for shard in source.shards():
            for _, image in source.read(shard, lambda ordinal: ordinal == 0):
                if image.error:
                    return Check("data", "warn", f"{image.image_id}: {image.error}", "the first image is damaged; look at it")
                return Check("data", "pass", f"{image.image_id}: {len(image.data):,} bytes")
    except UserError as error:
        return Check("data", "fail", str(error), "give this host the same path, mount or credentials as the others")
    return Check("data", "fail", f"{shown(data)}: no image in it", "check --data")


def open_mesh(request: DeviceRequest) -> str:
    """Open the device, classify batches whose answers are known, close it; what it took.

    Raises DeviceError or UserError, CheckFailed where a chip answers wrongly.
    """
    device = request()
    try:
        compile_seconds = device.compile()
        check = SelfCheck(device)
        check.judge(answers := list(device.classify(check.batches)))
        images, seconds = len(answers) * device.batch_size, sum(answer.seconds for answer in answers)
        found = f"{device.description}: compiled in {compile_seconds:.1f} s, {images} images in {seconds:.4f} s"
        found += f", all {len(device.chips)} chips answer right"
        if built := device.start.get("kernels_built"):
            return f"{found}, {built:.0f} kernels built and cached"
        return found if built is None else f"{found}, every kernel was cached"
    finally:
        device.close()


def try_mesh(request: DeviceRequest, limit_seconds: float) -> Check:
    """open_mesh in a process of its own, because a held or broken board may hang or kill the one that opens it."""
    started = time.monotonic()
    with ProcessPool(max_workers=1, context=get_context("spawn")) as pool:
        try:
            found = pool.schedule(open_mesh, [request], timeout=limit_seconds).result()
        except TimeoutError:
            fix = "see who holds the boards (sudo lsof /dev/tenstorrent/*), or tt-smi -r to reset them"
            return Check("open mesh", "fail", f"no answer for {limit_seconds:g} s", fix)
        except ProcessExpired as error:
            return Check("open mesh", "fail", f"the process died (exit code {error.exitcode})", "tt-smi -r, then try again")
        except (UserError, RuntimeError) as error:  # DeviceError is a RuntimeError, as is what ttnn raises
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return Check("open mesh", "fail", told, "see the checks above it")
    return Check("open mesh", "pass", f"{found}, {time.monotonic() - started:.0f} s in all")
