"""A ViT on the CPU: OpenVINO at the best float precision this CPU computes in, or the plain torch reference."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vit_actor.checkpoint import Checkpoint
from vit_actor.device import BatchResult, best_of, top_k
from vit_actor.errors import DeviceError
from vit_actor.openvino_vit import openvino_graph, ov

PIECE = 4
"""Images per inference. ViT-Base is within 7% from 1 to 8. The sample's small model is 20% slower at 1 and only 3% faster at
8 (8% at 16) by CPU time, while larger pieces leave streams idle at the end of a batch."""

REQUESTS_PER_STREAM = 2
"""One computing and one waiting, so that a stream never waits for Python."""


class CpuVit:
    """A `Device` on `threads` CPU threads.

    precision "auto": OpenVINO, bfloat16 where the CPU multiplies in it (avx512_bf16, AMX or avx2_vnni_2), else float32.
        Every thread is a stream of its own, and a batch is cut into pieces that the streams share. The choice follows
        what the CPU reports, not a trial run; tests/benchmarks/cpu_model.py measures it on the machine at hand.
    precision "fp32": transformers' model in eager torch, one batch at a time: the reference that "auto" is judged by.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int = 64,
        threads: int,
        precision: Literal["auto", "fp32"] = "auto",
        held: tuple[int, ...] | None = None,
    ) -> None:
        """batch_size: most images in a batch. threads: the cores reserved for this device; the machine may have more.

        held: the classes the data has, where these are not all; see BatchResult.held.
        """
        if batch_size < 1 or threads < 1:
            raise ValueError(f"batch_size and threads must be at least 1, not {batch_size} and {threads}")
        self.batch_size = batch_size
        self._checkpoint = checkpoint
        self._threads = threads
        self._held = held
        self._core = ov.Core() if precision == "auto" else None
        self._bfloat16 = self._core is not None and "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._reference: Callable[[np.ndarray], np.ndarray] | None = None
        self._requests: list[Any] = []
        self._compile_seconds: float | None = None
        self.start: dict[str, float] = {}
        self._closed = False
        self._previous = 0.0  # when the latest batch completed, on the monotonic clock

    @property
    def description(self) -> str:
        """One line: the library, the precision it chose, and the threads."""
        name = ov.Core().get_property("CPU", "FULL_DEVICE_NAME").strip()
        runs = f"OpenVINO {'bfloat16' if self._bfloat16 else 'float32'}" if self._core else "torch eager float32"
        return f"CPU {name}: {runs}, {self._threads} {'thread' if self._threads == 1 else 'threads'}"

    def compile(self) -> float:
        """Load the weights and, for OpenVINO, build, compile and run once; seconds. Later calls return the same number."""
        if self._closed:
            raise DeviceError("the CPU device is closed")
        if self._compile_seconds is None:
            start = time.monotonic()
            if self._core:
                self._requests = self._compile_streams(self._core)
            else:
                from vit_actor.reference_vit import ReferenceVit  # torch and transformers, which OpenVINO does without

                self._reference = ReferenceVit(self._checkpoint, self._threads)
            self._compile_seconds = time.monotonic() - start
            self.start["programs"] = self._compile_seconds - self.start.get("weights", 0.0)
        return self._compile_seconds

    def classify(self, batches: Iterable[np.ndarray | None]) -> Iterator[BatchResult]:
        """Answer batches in order, as `Device.classify` says.

        Raises DeviceError when closed; ValueError for a batch the contract excludes.
        """
        self.compile()
        return self._classify_pieces(batches) if self._core else self._classify_eagerly(batches)

    def close(self) -> None:
        """Release the weights and refuse further work."""
        self._closed = True
        self._reference, self._requests = None, []

    def _compile_streams(self, core: ov.Core) -> list[Any]:
        began = time.monotonic()
        graph = openvino_graph(self._checkpoint)
        self.start["weights"] = time.monotonic() - began
        compiled = core.compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if self._bfloat16 else "f32",
                "INFERENCE_NUM_THREADS": self._threads,
                "NUM_STREAMS": self._threads,
                "ENABLE_CPU_PINNING": False,  # two actors on one host would pin themselves to the same cores
            },
        )
        requests = [compiled.create_infer_request() for _ in range(REQUESTS_PER_STREAM * self._threads)]
        for request in requests:
            request.start_async({0: np.zeros((1, *self._checkpoint.preprocess.shape), np.uint8)})
        for request in requests:
            request.wait()
        return requests

    def _classify_eagerly(self, batches: Iterable[np.ndarray | None]) -> Iterator[BatchResult]:
        for images in batches:
            if images is not None:  # None finds nothing in flight
                batch = self._take(images)
                assert self._reference is not None
                batch.logits[:] = self._reference(images)
                batch.completed = time.monotonic()
                yield self._answer(batch)

    def _classify_pieces(self, batches: Iterable[np.ndarray | None]) -> Iterator[BatchResult]:
        idle = list(self._requests)
        flight: deque[_Batch] = deque()
        try:
            for images in batches:
                if images is not None:
                    flight.append(batch := self._take(images))
                    for start in range(0, len(images), PIECE):
                        if not idle:
                            idle.append(flight[0].await_piece())
                            if flight[0].missing == 0:
                                yield self._answer(flight.popleft())
                        batch.start_piece(idle.pop(), images, start)
                elif flight:
                    idle += flight[0].await_all()
                    yield self._answer(flight.popleft())
            while flight:
                idle += flight[0].await_all()
                yield self._answer(flight.popleft())
        finally:
            for batch in flight:  # the caller gave up: leave no request running
                batch.await_all()

    def _take(self, images: np.ndarray) -> _Batch:
        if self._closed:
            raise DeviceError("the CPU device is closed")
        shape = self._checkpoint.preprocess.shape
        if images.dtype != np.uint8 or images.shape[1:] != shape or not 1 <= len(images) <= self.batch_size:
            allowed = f"uint8 {(f'1 to {self.batch_size}', *shape)}".replace("'", "")
            raise ValueError(f"a batch must be {allowed}, not {images.dtype} {images.shape}")
        return _Batch(np.empty((len(images), self._checkpoint.config.num_labels), np.float32), missing=len(images))

    def _answer(self, batch: _Batch) -> BatchResult:
        seconds = max(0.0, batch.completed - max(batch.started, self._previous))
        self._previous = max(batch.completed, self._previous)
        classes, probabilities = top_k(batch.logits)
        return BatchResult(classes, probabilities, batch.started_at, seconds, best_of(batch.logits, self._held))


@dataclass
class _Batch:
    """A batch on its way: its logits (n, classes) as they arrive, and the pieces that still compute, oldest first."""

    logits: np.ndarray
    missing: int
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    completed: float = 0.0
    pieces: deque[tuple[Any, int, float]] = field(default_factory=deque)

    def start_piece(self, request: Any, images: np.ndarray, start: int) -> None:
        """Copy PIECE images, or as many as are left from `start`, into an idle request and let it run."""
        self.pieces.append((request, start, time.monotonic()))
        request.start_async({0: images[start : start + PIECE]})

    def await_piece(self) -> Any:
        """Wait for the oldest piece and take its logits; the request is idle again."""
        request, start, submitted = self.pieces.popleft()
        request.wait()
        logits = request.get_output_tensor().data
        self.logits[start : start + len(logits)] = logits
        self.missing -= len(logits)
        # Not now: the caller may have been away while it completed. The request's own clock is in milliseconds.
        self.completed = max(self.completed, submitted + request.latency / 1e3)
        return request

    def await_all(self) -> list[Any]:
        """Wait for every piece; their requests."""
        return [self.await_piece() for _ in range(len(self.pieces))]
