"""A ViT on the Wormhole chips this process was given: one n150, one n300, or the eight chips of a T3000."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from vit_actor.checkpoint import Checkpoint
from vit_actor.device import IN_FLIGHT, BatchResult, best_of, check_batch, in_flight, top_k
from vit_actor.errors import NOT_UP, DeviceError
from vit_actor.geometry import IMAGES_PER_CHIP, geometry
from vit_actor.opening import Precision, cache_directory
from vit_actor.reference import kept_reference
from vit_actor.watchdog import killed_after
from vit_actor.weights import arrange, steep

# Read by ttnn when it is imported: no log of what it raises too, and an error instead of a wait without end when a chip hangs.
os.environ.setdefault("LOGURU_LEVEL", "WARNING")
os.environ.setdefault("TT_LOGGER_LEVEL", "off")
os.environ.setdefault("TT_METAL_OPERATION_TIMEOUT_SECONDS", "60")

_began = time.monotonic()
import ttnn  # noqa: E402

IMPORT_SECONDS = time.monotonic() - _began

from vit_actor.staging import Staging  # noqa: E402
from vit_actor.traced import Answer, TracedForward  # noqa: E402
from vit_actor.ttnn_vit import place, plan, vit  # noqa: E402

TTNN = "0.81"  # The release line that the graph was validated with; ops change their demands between releases
MATHS: dict[str, str] = {"fast": "LoFi", "accurate": "HiFi2"}
TOLERANCE: dict[str, float] = {"fast": 0.3, "accurate": 0.2}
"""`Device.tolerance`. What was seen of sound kernels and of the kit is below half of it."""
TRACE_REGION = 32 << 20
"""Bytes of each chip's DRAM for the traces, over all its banks. The public demo gets by with 1.7 MB, and in ttsim one of the
bundled model's two traces took 0.23 MB; a chip has 12 GB."""
L1_SMALL = 32 << 10  # Bytes of each core's memory that ttnn may use for its own small buffers


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[phase] = time.monotonic() - began


@contextmanager
def _explained() -> Iterator[None]:
    """Raise what ttnn raises as a DeviceError of one line."""
    try:
        yield
    except DeviceError:
        raise
    except RuntimeError as error:
        raise DeviceError(explanation(str(error))) from error


type _Flight = tuple[int, float, float, Answer]
"""Images, when it started on the wall clock and on the monotonic one, and what becomes the answer."""


class T3000Vit:
    """A `Device` on all chips visible to this process, data parallel: every chip holds the whole model.

    Boards are chosen by TT_VISIBLE_DEVICES, which Ray sets for an actor that asked for TTNPU.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        precision: Precision = "auto",
        images_per_chip: int = IMAGES_PER_CHIP,
        held: tuple[int, ...] | None = None,
        open_seconds: float = 120.0,
    ) -> None:
        """Lay the model out, then open the mesh.

        precision: of the encoder's linear layers; auto is accurate: see README.md. images_per_chip: see `geometry`;
        fewer lower the latency and the throughput. held: the classes the data has, where these are not all; see BatchResult.held.
        open_seconds: see open_mesh.
        Raises UserError when the model does not fit the chips' grid; DeviceError when the chips are absent, held by another
        process, or do not come up.
        """
        self._size = geometry(checkpoint.config, images_per_chip)
        self._weights = arrange(checkpoint.tensors(), checkpoint.config, checkpoint.preprocess, self._size)
        self._precision: Literal["fast", "accurate"] = "fast" if precision == "fast" else "accurate"
        self._held = held
        self.shape, self.tolerance = checkpoint.preprocess.shape, TOLERANCE[self._precision]
        self.reference = partial(kept_reference, checkpoint)
        self._compile_seconds: float | None = None
        self._forward: TracedForward | None = None
        self._staging: list[Staging] = []
        self._batches = 0  # started so far; decides the staging buffer
        self._completed = 0.0  # when the latest batch did, on the monotonic clock
        self.start: dict[str, float] = {"import": IMPORT_SECONDS}
        self._kernels = cached_kernels()
        with _timed(self.start, "open"):
            self._mesh: ttnn.MeshDevice | None = open_mesh(open_seconds)
        self.chips = chip_names(self._mesh)
        self.batch_size = len(self.chips) * images_per_chip
        self.description = _describe(len(self.chips), self._precision)

    def compile(self) -> float:
        if self._compile_seconds is None:
            start, mesh = time.monotonic(), self._opened()
            program = plan(self._size, self._precision, stable_softmax=steep(self._weights, self._size))
            with _explained():
                with _timed(self.start, "weights"):
                    forward = partial(vit, weights=place(self._weights, mesh, program), plan=program)
                    self._staging = [Staging(self._size, mesh) for _ in range(IN_FLIGHT + 1)]
                with _timed(self.start, "programs"):
                    self._forward = TracedForward(mesh, forward, self._staging[0].host)
                self.start["kernels_built"] = cached_kernels() - self._kernels
                with _timed(self.start, "trace"):
                    self._forward.capture()
            self._compile_seconds = time.monotonic() - start
        return self._compile_seconds

    def classify(self, batches: Iterable[np.ndarray | None]) -> Iterator[BatchResult]:
        self.compile()
        with _explained():
            yield from in_flight(batches, self._start, self._finish, abandon=self._drain)

    def close(self) -> None:
        with suppress(RuntimeError):  # a chip that failed has nothing left to release
            if self._forward:
                self._forward.release()
        self._forward, self._staging = None, []  # its tensors go before their mesh
        mesh, self._mesh = self._mesh, None
        with suppress(RuntimeError):
            if mesh:
                ttnn.close_mesh_device(mesh)

    def _opened(self) -> ttnn.MeshDevice:
        if self._mesh is None:
            raise DeviceError("the mesh is closed")
        return self._mesh

    def _start(self, images: np.ndarray) -> _Flight:
        self._opened()
        assert self._forward
        check_batch(images, self.batch_size, self.shape)
        started_at, started = time.time(), time.monotonic()
        staging = self._staging[self._batches % len(self._staging)]
        self._batches += 1
        staging.put(images)
        return len(images), started_at, started, self._forward.start(staging.host)

    def _drain(self) -> None:
        """Wait for answers that are on their way to host memory which nobody holds any more."""
        if self._forward:
            with suppress(RuntimeError):  # of a chip that failed, which is being reported already
                self._forward.drain()

    def _finish(self, flight: _Flight) -> BatchResult:
        images, started_at, started, answer = flight
        began = max(started, self._completed)
        rows = answer.wait()  # without Python's lock: other threads fetch the next images meanwhile
        self._completed = time.monotonic()
        logits = ttnn.to_torch(rows, mesh_composer=ttnn.ConcatMeshToTensor(self._opened(), dim=0))
        answers = logits[:images, 0, : self._size.classes].float().numpy()
        held = best_of(answers, self._held)
        return BatchResult(*top_k(answers), started_at, self._completed - began, held, answers)


def open_mesh(limit_seconds: float = 120.0) -> ttnn.MeshDevice:
    """Open every chip of the boards in TT_VISIBLE_DEVICES (all boards without it) as one row, with two command queues.

    limit_seconds: how long the chips may take to come up. Then this process ends with a line on standard error: the driver waits
    without end for chips that another process holds or that hang, and cannot be interrupted.
    Raises DeviceError in one line, with the fix, when they are absent, too few, held, hung, or ttnn is the wrong version.
    """
    installed = version("ttnn")
    if not installed.startswith(TTNN + "."):
        raise DeviceError(f"ttnn {installed} is installed, but {TTNN}.* is needed; install requirements.txt")
    boards = _visible_boards()
    held = f"chips (boards {','.join(boards) or 'all'}) did not come up in {limit_seconds:g} s: {NOT_UP}"
    with _explained(), killed_after(limit_seconds, held):
        chips = ttnn.get_num_devices()
        if boards and chips not in (len(boards), 2 * len(boards)):
            raise DeviceError(
                f"{chips} chips came up on boards {','.join(boards)}; an n300 has 2: look for a failed board in tt-smi"
            )
        return ttnn.open_mesh_device(
            ttnn.MeshShape(1, chips), num_command_queues=2, l1_small_size=L1_SMALL, trace_region_size=TRACE_REGION
        )


def chip_names(mesh: ttnn.MeshDevice) -> tuple[str, ...]:
    """In the order in which they share a batch: ttnn's number for the chip, and the board it is on."""
    boards, chips = _visible_boards(), mesh.get_device_ids()
    on = [ttnn.GetPCIeDeviceID(chip) for chip in chips]
    return tuple(f"board {boards[i] if i < len(boards) else i} chip {chip}" for chip, i in zip(chips, on, strict=True))


def cached_kernels() -> int:
    """How many kernels ttnn has compiled on this host and keeps for the next start."""
    return sum(1 for _ in cache_directory().glob("tt-metal-cache*/kernels/*/*"))


def _visible_boards() -> list[str]:
    return [board for board in os.environ.get("TT_VISIBLE_DEVICES", "").split(",") if board]


_TOO_LARGE = "memory at this batch; use fewer images per chip"
_EXPLANATIONS = {
    "build failed. log": "a kernel did not compile; is sfpi the version that cluster/install.sh installs?",
    "no chips detected": "no Tenstorrent chip found; is the driver loaded (ls /dev/tenstorrent) and the board in tt-smi?",
    "sfpi not found": (
        "the kernel compiler is not installed; install Tenstorrent's sfpi package so that /opt/tenstorrent/sfpi exists"
    ),
    "requested mesh shape": "fewer chips came up than the mesh needs; look for a failed board in tt-smi",
    "clash with l1 buffers": f"the model does not fit the cores' {_TOO_LARGE}",
    "beyond max l1 size": f"the model does not fit the cores' {_TOO_LARGE}",
    "out of memory": f"the model does not fit the chips' {_TOO_LARGE}",
    "trace region": "the trace does not fit the memory set aside for it; raise TRACE_REGION",
    "timeout": "a chip stopped answering; reset it with tt-smi -r",
}
"""What ttnn says, in lower case -> what it means and what to do. The first that is found counts."""


def explanation(said: str) -> str:
    """One line for what ttnn says in thirty: what it means and what to do if that is known, else its own reason."""
    if meaning := next((meaning for sign, meaning in _EXPLANATIONS.items() if sign in said.lower()), None):
        return meaning
    message = said.split("backtrace:")[0].split("Location:")[0]  # then ttnn's stack follows, or the driver's
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    details = [line for line in lines if not line.startswith(("TT_FATAL @", "TT_THROW @", "info:", "Traceback", "File "))]
    return f"ttnn failed: {(details or lines or ['no reason given'])[-1]}"


def _describe(chips: int, precision: str) -> str:
    name = {1: "n150", 2: "n300", 8: "T3000"}.get(chips, "Wormhole")
    boards = _visible_boards()
    # As the kernel driver tells it, where it does.
    files = Path("/sys/class/tenstorrent").glob("tenstorrent!*/tt_fw_bundle_ver")
    versions = {file.read_text().strip() for file in files if not boards or file.parent.name.partition("!")[2] in boards}
    firmware = ", ".join(sorted(versions)) or "unknown"
    stand_ins = {
        "TT_METAL_MOCK_CLUSTER_DESC_PATH": "simulated by ttnn's mock, answers are noise: ",
        "TT_METAL_SIMULATOR": "simulated by ttsim, answers are real and times are not: ",
    }
    banner = next((text for variable, text in stand_ins.items() if variable in os.environ), "")
    return (
        f"{banner}{name}, mesh 1x{chips} of Wormhole chips (boards {','.join(boards) or 'all'}, firmware {firmware}): "
        f"ttnn {version('ttnn')}, {precision}: bfloat8_b at {MATHS[precision]} with bfloat16 residuals, "
        "two traces, two command queues"
    )
