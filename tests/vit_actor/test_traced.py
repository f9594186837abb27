"""The two-queue loop: batches in flight keep their own inputs and answers, and what would mix them up is caught."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.mock_t3000.golden import Goldens
from tests.mock_t3000.queues import Queues
from vit_actor.errors import DeviceError

SHAPE = (64, 32, 64)


@pytest.fixture
def goldens(request: pytest.FixtureRequest) -> Iterator[Goldens]:
    """Queues run as late as they may; as a parameter, the queue that runs as early as it may."""
    with Goldens(rounding=False, queues=Queues(ahead=getattr(request, "param", None))) as goldens:
        yield goldens


def host_batch(mesh: Any, fill: float) -> tuple[torch.Tensor, Any]:
    """A batch whose images hold fill + their index, and the host tensor that shares its memory."""
    import ttnn

    memory = (fill + torch.arange(64.0))[:, None, None].expand(SHAPE).bfloat16().contiguous()
    mapper = ttnn.ShardTensorToMesh(mesh, dim=0)
    return memory, ttnn.from_torch(memory, dtype=ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT, mesh_mapper=mapper)


@pytest.fixture
def traced(mesh: Any, goldens: Goldens) -> Iterator[Any]:
    """A captured forward pass that doubles its input."""
    import ttnn

    from vit_actor.traced import TracedForward

    def double(values: Any) -> Any:
        return ttnn.to_layout(ttnn.multiply(ttnn.tilize(values), 2.0), ttnn.ROW_MAJOR_LAYOUT)

    forward = TracedForward(mesh, double, host_batch(mesh, 0)[1])
    forward.capture()
    yield forward
    forward.release()


def read(mesh: Any, answer: Any) -> torch.Tensor:
    import ttnn

    return ttnn.to_torch(answer.wait(), mesh_composer=ttnn.ConcatMeshToTensor(mesh, dim=0))


@pytest.mark.parametrize("goldens", [None, 0, 1], indirect=True, ids=["all late", "compute early", "transfers early"])
@pytest.mark.parametrize("flights", [3, 5], ids=["as the device does", "more than traces"])
def test_batches_in_flight_each_get_their_own_answer_in_order(mesh: Any, traced: Any, flights: int) -> None:
    for start in range(0, 12, flights):
        batches = [host_batch(mesh, 100.0 * index) for index in range(start, start + flights)]
        answers = [traced.start(host) for _, host in batches]
        for (memory, _), answer in zip(batches, answers, strict=True):
            assert torch.equal(read(mesh, answer), 2 * memory.float())


def test_an_answer_read_after_its_trace_ran_again_would_be_the_later_batchs(mesh: Any, traced: Any) -> None:
    memory, first = host_batch(mesh, 1.0)
    flight = traced.start(first)
    for fill in (500.0, 600.0):
        traced._latest = None  # so that nothing reads the batch before
        traced.start(host_batch(mesh, fill)[1])
    traced.drain()
    assert not torch.equal(read(mesh, flight), 2 * memory.float())


def test_no_program_is_compiled_after_the_capture(mesh: Any, traced: Any) -> None:
    programs = mesh.num_program_cache_entries()
    flights = [traced.start(host_batch(mesh, 10.0 * index)[1]) for index in range(4)]
    assert [read(mesh, flight)[0, 0, 0].item() for flight in flights] == [0.0, 20.0, 40.0, 60.0]
    assert mesh.num_program_cache_entries() == programs


def test_the_next_upload_waits_for_no_computation(mesh: Any, traced: Any, goldens: Goldens) -> None:
    import ttnn

    from vit_actor.traced import COMPUTE, TRANSFER

    traced.start(host_batch(mesh, 1.0)[1])
    traced.start(host_batch(mesh, 2.0)[1])
    ttnn.event_synchronize(ttnn.record_event(mesh, TRANSFER))
    assert goldens.queues.pending[COMPUTE], "the second batch was computed before the transfers behind it were done"
    traced.drain()


def test_an_input_that_moved_since_the_capture_is_refused(mesh: Any, traced: Any) -> None:
    import ttnn

    stayed = traced._arrivals[0]
    traced._arrivals[0] = ttnn.clone(stayed)
    with pytest.raises(DeviceError, match="input has moved"):
        traced.start(host_batch(mesh, 1.0)[1])
    traced._arrivals[0] = stayed
