"""The kit itself: what it writes is what ttnn reads, and its queues run late and in order."""

from __future__ import annotations

import struct

import pytest

from tests.mock_t3000 import cluster
from tests.mock_t3000.queues import Queues
from tests.mock_t3000.toolchain import null_kernel


def test_the_descriptor_pairs_eight_chips_on_four_boards_with_every_link_inside() -> None:
    import yaml

    described = yaml.safe_load(cluster.descriptor())
    assert sorted(described["arch"]) == list(range(8))
    boards = [next(part["chips"] for part in board if "chips" in part) for board in described["boards"]]
    assert sorted(chip for board in boards for chip in board) == list(range(8))
    ends = [(end["chip"], end["chan"]) for link in described["ethernet_connections"] for end in link]
    assert len(ends) == len(set(ends)) == 40
    for on_pcie, remote in boards:
        links = [{end["chip"] for end in link} for link in described["ethernet_connections"]]
        assert links.count({on_pcie, remote}) == 2


def test_the_kernel_is_a_riscv_executable_that_enters_at_its_text() -> None:
    kernel = null_kernel()
    kind, machine, _, entry, segments_at = struct.unpack_from("<HHIII", kernel, 16)
    assert kernel[:5] == b"\x7fELF\x01"
    assert (kind, machine) == (2, 243)
    segment_type, offset, address = struct.unpack_from("<III", kernel, segments_at)
    assert (segment_type, address) == (1, entry)
    assert kernel[offset : offset + 4] == struct.pack("<I", 0x00008067)  # ret


def test_nothing_runs_before_something_waits_for_it_and_then_only_what_it_needs() -> None:
    queues, ran = Queues(), []
    queues.enqueue(0, lambda: ran.append("compute"))
    computed = queues.record(0)
    queues.enqueue(0, lambda: ran.append("later"))
    queues.enqueue(1, lambda: ran.append("upload"))
    queues.wait(1, computed)
    queues.enqueue(1, lambda: ran.append("read"))
    assert ran == []
    queues.synchronize(queues.record(1))
    assert ran == ["upload", "compute", "read"]
    queues.finish()
    assert ran == ["upload", "compute", "read", "later"]


def test_two_queues_that_wait_for_each_other_are_reported() -> None:
    queues = Queues()
    other = Queues().record(1)
    queues.wait(0, other)
    with pytest.raises(AssertionError, match="no queue will reach"):
        queues.finish()


def test_a_capture_runs_nothing_and_every_replay_runs_all_of_it() -> None:
    queues, ran = Queues(), []
    trace = queues.begin_trace()
    queues.enqueue(0, lambda: ran.append("op"))
    queues.end_trace(trace)
    queues.finish()
    assert ran == []
    queues.execute_trace(trace, 0)
    queues.execute_trace(trace, 0)
    queues.finish()
    assert ran == ["op", "op"]
