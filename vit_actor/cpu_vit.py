"""A ViT on the CPU: OpenVINO at the best float precision this CPU computes in, or the plain torch reference."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from vit_actor.checkpoint import Checkpoint
from vit_actor.device import IN_FLIGHT, BatchResult, best_of, check_batch, in_flight, top_k
from vit_actor.errors import DeviceError
from vit_actor.opening import Precision
from vit_actor.openvino_vit import openvino_graph, ov
from vit_actor.reference import kept_reference, reference_vit

PIECE = 4
"""Images per inference. ViT-Base is within 7% from 1 to 8. The sample's small model is 20% slower at 1 and only 3% faster at
8 (8% at 16) by CPU time, while larger pieces leave streams idle at the end of a batch."""
REQUESTS_PER_STREAM = 2  # One computing and one waiting, so that a stream never waits for Python


@dataclass
class _Batch:
    """A batch on its way: its logits (n, classes) as they arrive, and how many images' are missing."""

    logits: np.ndarray
    missing: int
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    completed: float = 0.0


class CpuVit:
    """A `Device` on `threads` CPU threads.

    precision "auto": OpenVINO, bfloat16 where the CPU multiplies in it (avx512_bf16, AMX or avx2_vnni_2), else float32.
        Every thread is a stream of its own, and a batch is cut into pieces that the streams share. The choice follows
        what the CPU reports, not a trial run.
    precision "fp32": transformers' model in eager torch, one batch at a time: the reference that "auto" is judged by.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int = 64,
        threads: int,
        precision: Precision = "auto",
        held: tuple[int, ...] | None = None,
    ) -> None:
        """batch_size: most images in a batch. threads: the cores reserved for this device; the machine may have more.

        held: the classes the data has, where these are not all; see BatchResult.held.
        """
        self.batch_size, self.shape = batch_size, checkpoint.preprocess.shape
        self.chips: tuple[str, ...] = ()  # the CPU is what chips are checked by
        self.tolerance, self.reference = 0.0, partial(kept_reference, checkpoint)
        self.start: dict[str, float] = {}
        core = ov.Core()
        self._checkpoint, self._threads, self._held = checkpoint, threads, held
        self._core = None if precision == "fp32" else core
        self._type = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
        runs = f"OpenVINO {'bfloat16' if self._type == 'bf16' else 'float32'}" if self._core else "torch eager float32"
        name = core.get_property("CPU", "FULL_DEVICE_NAME").strip()
        self.description = f"CPU {name}: {runs}, {threads} {'thread' if threads == 1 else 'threads'}"
        self._reference: Callable[[np.ndarray], np.ndarray] | None = None
        self._idle: list[Any] = []  # OpenVINO's requests
        self._pieces: deque[tuple[Any, _Batch, int, float]] = deque()  # oldest first: request, first image, when it started
        self._compile_seconds: float | None = None
        self._closed = False
        self._previous = 0.0  # when the latest batch completed, on the monotonic clock

    def compile(self) -> float:
        self._check_open()
        if self._compile_seconds is None:
            began = time.monotonic()
            if self._core:
                self._idle = self._requests(self._core)
            else:
                self._reference = reference_vit(self._checkpoint, self._threads)
            self._compile_seconds = time.monotonic() - began
            self.start["programs"] = self._compile_seconds - self.start.get("weights", 0.0)
        return self._compile_seconds

    def classify(self, batches: Iterable[np.ndarray | None]) -> Iterator[BatchResult]:
        self.compile()
        return in_flight(batches, self._start, self._finish, most=IN_FLIGHT if self._core else 0, abandon=self._await_pieces)

    def close(self) -> None:
        self._closed = True
        self._reference, self._idle = None, []

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceError("the CPU device is closed")

    def _requests(self, core: ov.Core) -> list[Any]:
        began = time.monotonic()
        graph = openvino_graph(self._checkpoint)
        self.start["weights"] = time.monotonic() - began
        settings = {
            "INFERENCE_PRECISION_HINT": self._type,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": self._threads,
            "ENABLE_CPU_PINNING": False,  # two actors on one host would pin themselves to the same cores
        }
        compiled = core.compile_model(graph, "CPU", settings)
        requests = [compiled.create_infer_request() for _ in range(REQUESTS_PER_STREAM * self._threads)]
        for request in requests:
            request.start_async({0: np.zeros((1, *self.shape), np.uint8)})
        for request in requests:
            request.wait()
        return requests

    def _start(self, images: np.ndarray) -> _Batch:
        self._check_open()
        check_batch(images, self.batch_size, self.shape)
        batch = _Batch(np.empty((len(images), self._checkpoint.config.num_labels), np.float32), missing=len(images))
        if self._reference:
            batch.logits[:] = self._reference(images)
            batch.missing, batch.completed = 0, time.monotonic()
            return batch
        for first in range(0, len(images), PIECE):
            request = self._idle.pop() if self._idle else self._await_piece()
            self._pieces.append((request, batch, first, time.monotonic()))
            request.start_async({0: images[first : first + PIECE]})
        return batch

    def _finish(self, batch: _Batch) -> BatchResult:
        while batch.missing:
            self._idle.append(self._await_piece())
        seconds = max(0.0, batch.completed - max(batch.started, self._previous))
        self._previous = max(batch.completed, self._previous)
        return BatchResult(*top_k(batch.logits), batch.started_at, seconds, best_of(batch.logits, self._held))

    def _await_piece(self) -> Any:
        """Wait for the oldest piece and take its logits; its request, which is idle again."""
        request, batch, first, started = self._pieces.popleft()
        request.wait()
        logits = request.get_output_tensor().data
        batch.logits[first : first + len(logits)] = logits
        batch.missing -= len(logits)
        # By the request's own clock, in milliseconds: the caller may have been away while it completed.
        batch.completed = max(batch.completed, started + request.latency / 1e3)
        return request

    def _await_pieces(self) -> None:
        self._idle += [self._await_piece() for _ in range(len(self._pieces))]
