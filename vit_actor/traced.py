"""One captured trace replayed batch after batch: one queue moves data, the other computes, events order the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ttnn

from vit_actor.errors import DeviceError

COMPUTE, TRANSFER = 0, 1
"""Command queues. Commands within one run in order."""


class Answer:
    """One batch's result, still on the mesh in `departure` once `computed`."""

    def __init__(self, mesh: ttnn.MeshDevice, departure: ttnn.Tensor, computed: Any) -> None:
        self._mesh, self._departure, self._computed = mesh, departure, computed
        self._read_back: tuple[ttnn.Tensor, Any] | None = None

    def read(self) -> tuple[ttnn.Tensor, Any]:
        """Enqueue the read-back, if it is not yet; the host tensor it fills, and the event after which it is filled."""
        if self._read_back is None:
            ttnn.wait_for_event(TRANSFER, self._computed)
            host = ttnn.from_device(self._departure, blocking=False, cq_id=TRANSFER)
            self._read_back = host, ttnn.record_event(self._mesh, TRANSFER)
        return self._read_back

    def wait(self) -> ttnn.Tensor:
        """The answer on the host."""
        host, arrived = self.read()
        ttnn.event_synchronize(arrived)
        return host


class TracedForward:
    """A forward pass captured on `mesh`, with everything it reads and writes at fixed addresses.

    An upload lands in DRAM, so that the next batch can arrive while this one, copied to the cores' own
    memory, is computed. Answers leave through `slots` buffers in DRAM, taken in turn.
    """

    def __init__(
        self,
        mesh: ttnn.MeshDevice,
        forward: Callable[[ttnn.Tensor], ttnn.Tensor],
        example: ttnn.Tensor,
        input_memory: ttnn.MemoryConfig,
        slots: int,
    ) -> None:
        """Compile `forward`; `capture` comes next.

        example: a host tensor like those to come. input_memory: where forward wants it.
        """
        self._mesh = mesh
        self._forward = forward  # holds the weights: the trace reads them where they are
        self._arrivals = ttnn.allocate_tensor_on_device(example.spec, mesh)
        ttnn.copy_host_to_device_tensor(example, self._arrivals)
        self._input = ttnn.to_memory_config(self._arrivals, input_memory)
        compiled = forward(self._input)
        self._departures = [ttnn.to_memory_config(compiled, ttnn.DRAM_MEMORY_CONFIG) for _ in range(slots)]
        # What every later batch does outside the trace, compiled before the capture: a capture tolerates no new programs.
        ttnn.to_memory_config(self._arrivals, input_memory, output_tensor=self._input)
        ttnn.to_memory_config(compiled, ttnn.DRAM_MEMORY_CONFIG, output_tensor=self._departures[0])
        del compiled  # or the capture would place its tensors around it
        ttnn.synchronize_device(mesh)
        self._latest: Answer | None = None

    def capture(self) -> None:
        """Record the trace that `start` replays."""
        self._captured_address = self._input.buffer_address()
        self._trace = ttnn.begin_trace_capture(self._mesh, cq_id=COMPUTE)
        try:
            self._output = self._forward(self._input)
        finally:
            ttnn.end_trace_capture(self._mesh, self._trace, cq_id=COMPUTE)
        ttnn.synchronize_device(self._mesh)
        self._taken = ttnn.record_event(self._mesh, COMPUTE)

    def start(self, host: ttnn.Tensor, slot: int) -> Answer:
        """Enqueue one batch and return at once.

        Neither `host` nor `slot` may be used again before the answer has arrived. Raises DeviceError when
        the input is no longer where the trace reads it.
        """
        if self._input.buffer_address() != self._captured_address:
            raise DeviceError("the trace's input has moved since it was captured: its answers would be another batch's")
        ttnn.wait_for_event(TRANSFER, self._taken)
        ttnn.copy_host_to_device_tensor(host, self._arrivals, cq_id=TRANSFER)
        arrived = ttnn.record_event(self._mesh, TRANSFER)

        ttnn.wait_for_event(COMPUTE, arrived)
        ttnn.to_memory_config(self._arrivals, self._input.memory_config(), output_tensor=self._input)
        self._taken = ttnn.record_event(self._mesh, COMPUTE)
        ttnn.execute_trace(self._mesh, self._trace, cq_id=COMPUTE, blocking=False)
        ttnn.to_memory_config(self._output, ttnn.DRAM_MEMORY_CONFIG, output_tensor=self._departures[slot])
        answer = Answer(self._mesh, self._departures[slot], ttnn.record_event(self._mesh, COMPUTE))

        # Only now read the batch before: ahead of this upload, its read-back would keep the upload waiting for its compute.
        if self._latest:
            self._latest.read()
        self._latest = answer
        return answer

    def drain(self) -> None:
        """Wait for everything in flight; answers not yet read are lost."""
        self._latest = None
        ttnn.synchronize_device(self._mesh)

    def release(self) -> None:
        """Give the trace's memory back."""
        self.drain()
        ttnn.release_trace(self._mesh, self._trace)
