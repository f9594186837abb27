"""Two captured traces replayed in turn: one queue moves data, the other computes, events order the two."""

from collections.abc import Callable
from typing import Any

import ttnn

from vit_actor.errors import DeviceError

COMPUTE, TRANSFER = 0, 1  # Command queues. Commands within one run in order.
TRACES = 2  # One batch is computed while the next arrives


class Answer:
    """One batch's result: on the mesh in `departure` once the event `computed` is reached."""

    def __init__(self, mesh: ttnn.MeshDevice, departure: ttnn.Tensor, computed: Any) -> None:
        self._mesh, self._departure, self._computed = mesh, departure, computed
        self._read_back: tuple[ttnn.Tensor, Any] | None = None

    def read(self) -> tuple[ttnn.Tensor, Any]:
        """Enqueue the read-back, once; the host tensor that it fills, and the event after which it is filled."""
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
    """A forward pass captured on `mesh` twice, each with an input and an answer of its own at fixed addresses in DRAM.

    Whatever a batch needs on the chips is in its trace: it costs the host three commands (upload, replay, read-back) and six
    events.
    """

    def __init__(self, mesh: ttnn.MeshDevice, forward: Callable[[ttnn.Tensor], ttnn.Tensor], example: ttnn.Tensor) -> None:
        """Compile `forward`; `capture` comes next.

        forward: takes an upload in DRAM, which must stay as it is, and returns the answer. example: a host tensor like those
        to come.
        """
        self._mesh = mesh
        self._forward = forward  # holds the weights: the traces read them where they are
        self._arrivals = [ttnn.allocate_tensor_on_device(example.spec, mesh) for _ in range(TRACES)]
        for arrivals in self._arrivals:
            ttnn.copy_host_to_device_tensor(example, arrivals)
        # Allocated before the captures: else a trace might keep a temporary tensor where the other trace puts its answer.
        self._departures = [ttnn.to_memory_config(forward(arrivals), ttnn.DRAM_MEMORY_CONFIG) for arrivals in self._arrivals]
        for slot in range(TRACES):  # exactly what is captured: a program that is compiled during a capture breaks it
            self._pass(slot)
        ttnn.synchronize_device(mesh)
        self._latest: Answer | None = None
        self._started = 0

    def capture(self) -> None:
        """Record the traces that `start` replays."""
        self._captured_addresses = [arrivals.buffer_address() for arrivals in self._arrivals]
        self._traces = []
        for slot in range(TRACES):
            trace = ttnn.begin_trace_capture(self._mesh, cq_id=COMPUTE)
            try:
                self._pass(slot)
            finally:
                ttnn.end_trace_capture(self._mesh, trace, cq_id=COMPUTE)
            self._traces.append(trace)
        ttnn.synchronize_device(self._mesh)
        self._computed = [ttnn.record_event(self._mesh, COMPUTE) for _ in range(TRACES)]

    def _pass(self, slot: int) -> None:
        answer = self._forward(self._arrivals[slot])
        ttnn.to_memory_config(answer, ttnn.DRAM_MEMORY_CONFIG, output_tensor=self._departures[slot])

    def start(self, host: ttnn.Tensor) -> Answer:
        """Enqueue one batch and return at once.

        `host` may not be used again before the answer has arrived. Raises DeviceError when an input is no longer where its
        trace reads it.
        """
        slot = self._started % TRACES
        self._started += 1
        if self._arrivals[slot].buffer_address() != self._captured_addresses[slot]:
            raise DeviceError("the trace's input has moved since it was captured: its answers would be another batch's")
        ttnn.wait_for_event(TRANSFER, self._computed[slot])
        ttnn.copy_host_to_device_tensor(host, self._arrivals[slot], cq_id=TRANSFER)
        arrived = ttnn.record_event(self._mesh, TRANSFER)
        ttnn.wait_for_event(COMPUTE, arrived)
        ttnn.execute_trace(self._mesh, self._traces[slot], cq_id=COMPUTE, blocking=False)
        self._computed[slot] = ttnn.record_event(self._mesh, COMPUTE)
        answer = Answer(self._mesh, self._departures[slot], self._computed[slot])
        # The previous batch is read back after this upload. Before it, this upload would wait until that batch is computed.
        # Later is too late: the next batch's answer goes to the same place.
        if self._latest:
            self._latest.read()
        self._latest = answer
        return answer

    def drain(self) -> None:
        """Wait for everything in flight; answers not yet read are lost."""
        self._latest = None
        ttnn.synchronize_device(self._mesh)

    def release(self) -> None:
        """Give the traces' memory back."""
        self.drain()
        for trace in self._traces:
            ttnn.release_trace(self._mesh, trace)
