"""Counts merged by Ray Data, as an aggregation of its own."""

from __future__ import annotations

import pickle
from functools import cache

from ray.data.aggregate import AggregateFnV2
from ray.data.block import Block, BlockAccessor

from jobs.reporting.counts import Counting


class Merged(AggregateFnV2[bytes, bytes]):
    """The sum of the pickled Counts in the column `counts`."""

    def __init__(self) -> None:
        super().__init__("counts", zero_factory=bytes, on="counts", ignore_nulls=True)

    def aggregate_block(self, block: Block) -> bytes:
        return self._merge(BlockAccessor.for_block(block).to_arrow()["counts"].to_pylist())

    def combine(self, current_accumulator: bytes, new: bytes) -> bytes:
        return self._merge([current_accumulator, new])

    @staticmethod
    def _merge(pickled: list[bytes]) -> bytes:
        return pickle.dumps(_counting().merge(*map(pickle.loads, pickled)))


@cache
def _counting() -> Counting:
    """This process's own."""
    return Counting(threads=1)
