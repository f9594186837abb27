"""True numbers from unchanged ttnn code on the mock: every op also runs its golden torch function.

The mock validates and places every op but computes nothing. Inside `with Goldens():` each op is given
to the mock first, and then its golden function is run on the values that the device would hold. Values
are kept by memory address, as the device keeps them, so an op that reads a tensor whose memory was
reused, a trace whose input moved, or a host buffer refilled before its upload gets what the device
would get. `ttnn.to_torch` then returns true numbers.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self
from unittest.mock import patch

import torch
import ttnn
from ttnn.decorators import FastOperation

from tests.mock_t3000.queues import Queues

Values = list[torch.Tensor]  # One float32 tensor per chip, or a single one that all chips share

MOVES = frozenset(
    f"ttnn.{name}"
    for name in (
        *("clone", "copy", "interleaved_to_sharded", "move", "reallocate", "reshard", "sharded_to_interleaved"),
        *("tilize", "to_device", "to_dtype", "to_layout", "to_memory_config", "typecast", "untilize"),
    )
)
"""Ops that change where or how values are stored, and nothing else."""

FREE = frozenset({"ttnn.deallocate", "ttnn.get_device_tensors", "ttnn.allocate_tensor_on_device", "ttnn.synchronize_device"})
"""Ops that touch no values."""


def shortened(activations: torch.Tensor, weights: torch.Tensor, config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of a product as the matrix unit multiplies them at the fidelity of `config` (LoFi where an op is given none).

    LoFi takes 5 significant bits of the second factor and 7 of the first, HiFi2 10 and 7; the rest is cut off, not rounded. HiFi3
    and HiFi4 miss less than float32 sums of bfloat16 show. Source: tenstorrent/tt-isa-documentation, Wormhole's MVMUL and ELWMUL;
    the second factor is the one in SrcA.
    """

    def cut(values: torch.Tensor, bits: int) -> torch.Tensor:  # float32 with its first significant bits
        return (values.contiguous().view(torch.int32) & (-1 << (24 - bits))).view(torch.float32)

    fidelity = config.math_fidelity if config is not None else ttnn.MathFidelity.LoFi
    if fidelity not in (ttnn.MathFidelity.LoFi, ttnn.MathFidelity.HiFi2):
        return activations, weights
    return cut(activations, 7), cut(weights, 5 if fidelity == ttnn.MathFidelity.LoFi else 10)


def split_heads_sharded(qkv: torch.Tensor, *, num_heads: int, **_: object) -> tuple[torch.Tensor, ...]:
    """What the sharded kernel does: it wants query, key and value of each head side by side, unlike the golden."""
    query, key, value = qkv.unflatten(-1, (num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
    return query, key.transpose(-1, -2), value


def masked_softmax_sharded(scores: torch.Tensor, scale: float, mask: torch.Tensor, **_: object) -> torch.Tensor:
    """What the sharded kernel does: it adds the first row of each image's tile-high mask to all rows of all its heads."""
    return torch.softmax(scores * scale + mask[..., :1, :], dim=-1)


SHARDED: dict[str, Callable[..., Any]] = {
    "ttnn.transformer.split_query_key_value_and_split_heads": split_heads_sharded,
    "ttnn.scale_mask_softmax_in_place": masked_softmax_sharded,
}
"""Ops whose golden function does not do what the kernel for sharded tensors does."""


@dataclass(frozen=True)
class Place:
    """A tensor in device memory, as an op finds it when it runs."""

    memory: str
    address: int
    shape: tuple[int, ...]
    dtype: ttnn.DataType


@dataclass
class Goldens:
    """Context in which ttnn computes true numbers.

    rounding: round every op's result to the precision it is stored in (bfloat8_b shares an exponent among 16
        values) and cut a product's factors to the bits that its fidelity multiplies, as the device does; without,
        everything is float32. Neither models the device's approximate GELU and exponential.
    ops: every op that ran, by name; ops of a replayed trace count once, when captured.
    """

    rounding: bool
    ops: Counter[str] = field(default_factory=Counter)
    queues: Queues = field(default_factory=Queues)
    _device: dict[tuple[str, int], Values] = field(default_factory=dict)
    _host: dict[int, Values | None] = field(default_factory=dict)
    _inside: bool = False
    _patches: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        original = FastOperation.__call__
        self._run = original

        def call(op: FastOperation, *args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return original(op, *args, **kwargs)
            self._inside = True
            try:
                return self._call(op, args, kwargs)
            finally:
                self._inside = False

        self._patches.enter_context(patch.object(FastOperation, "__call__", call))
        self._patches.enter_context(patch.multiple(ttnn, **self._queue_functions()))
        return self

    def __exit__(self, *exc: object) -> None:
        self._patches.close()

    # ---- queues, events, traces ----

    def _queue_functions(self) -> dict[str, Any]:
        programs = 0

        def begin(mesh: ttnn.MeshDevice, *, cq_id: int = 0) -> int:
            nonlocal programs
            programs = mesh.num_program_cache_entries()
            return self.queues.begin_trace()

        def end(mesh: ttnn.MeshDevice, trace: int, *, cq_id: int = 0) -> None:
            assert mesh.num_program_cache_entries() == programs, "a program was compiled during capture: the device refuses"
            self.queues.end_trace(trace)

        return {
            "begin_trace_capture": begin,
            "end_trace_capture": end,
            "execute_trace": lambda mesh, trace, *, cq_id, blocking: self.queues.execute_trace(trace, cq_id),
            "release_trace": lambda mesh, trace: self.queues.release_trace(trace),
            "record_event": lambda mesh, cq_id: self.queues.record(cq_id),
            "wait_for_event": self.queues.wait,
            "event_synchronize": self.queues.synchronize,
            "synchronize_device": lambda mesh: self.queues.finish(),
        }

    # ---- ops ----

    def _call(self, op: FastOperation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, queue = op.python_fully_qualified_name, kwargs.get("cq_id") or kwargs.get("queue_id") or 0
        if name == "ttnn.to_torch":
            return self._read(args[0], **kwargs)
        result = self._run(op, *args, **kwargs)
        if name in FREE:
            return result
        if name == "ttnn.from_torch":
            if result.storage_type() == ttnn.StorageType.DEVICE:
                assert "mesh_mapper" not in kwargs, "what goes to the chips from torch goes to all alike"
                self._store(_place(result), [args[0].float()])
            return result
        self.ops[name] += 1
        if name == "ttnn.copy_host_to_device_tensor":
            host, device = args[0], _place(args[1])
            self.queues.enqueue(queue, lambda: self._store(device, self._host_values(host)))
        elif name == "ttnn.from_device":
            self._read_later(queue, _place(args[0]), result)
        else:
            self._compute_later(queue, op, args, kwargs, result)
        return result

    def _compute_later(self, queue: int, op: FastOperation, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        name = op.python_fully_qualified_name
        inputs = _map(_place, (args, {key: value for key, value in kwargs.items() if key != "dtype"}))
        outputs = [_place(tensor) for tensor in (result if isinstance(result, list | tuple) else [result])]
        golden = _golden_function(op, args)

        def compute() -> None:
            held: list[int] = []  # by how many chips apart, for each input
            _map(lambda place: held.append(len(self._load(place))), inputs, Place)
            chips = max(held, default=1)
            per_chip = []
            for chip in range(chips):
                chip_args, chip_kwargs = _map(partial(self._chip, chip), inputs, Place)
                if self.rounding and name in ("ttnn.linear", "ttnn.matmul"):
                    activations, weights, *rest = chip_args
                    chip_args = (*shortened(activations, weights, kwargs.get("compute_kernel_config")), *rest)
                answer = golden(*chip_args, **chip_kwargs)
                per_chip.append(answer if isinstance(answer, list | tuple) else [answer])
            for index, place in enumerate(outputs):
                values = [answer[index].float() for answer in per_chip]
                assert tuple(values[0].shape) == place.shape, f"{name}: golden {tuple(values[0].shape)}, device {place.shape}"
                self._store(place, values)

        self.queues.enqueue(queue, compute)

    # ---- values ----

    def _store(self, place: Place, values: Values) -> None:
        if self.rounding:
            values = [self._round(value, place.dtype) for value in values]
        self._device[place.memory, place.address] = values

    def _load(self, place: Place) -> Values:
        values = self._device.get((place.memory, place.address))
        assert values is not None, f"nothing was written to {place}"
        assert values[0].numel() == torch.Size(place.shape).numel(), f"{place} was overwritten by {tuple(values[0].shape)}"
        return values

    def _chip(self, chip: int, place: Place) -> torch.Tensor:
        values = self._load(place)
        return values[chip % len(values)].reshape(place.shape).clone()

    def _host_values(self, host: ttnn.Tensor) -> Values:
        first, *others = [shard.to_torch().float() for shard in ttnn.get_device_tensors(host)]
        return [first] if all(torch.equal(first, other) for other in others) else [first, *others]

    def _read_later(self, queue: int, place: Place, host: ttnn.Tensor) -> None:
        ttnn.decorators.set_tensor_id(host, force=True)
        self._host[host.tensor_id] = None

        def read() -> None:
            self._host[host.tensor_id] = [value.reshape(place.shape) for value in self._load(place)]

        self.queues.enqueue(queue, read)

    def _read(self, tensor: ttnn.Tensor, mesh_composer: Any = None, **_: Any) -> torch.Tensor:
        if tensor.storage_type() == ttnn.StorageType.DEVICE:
            self.queues.finish()
            values = [value.reshape(tuple(tensor.shape)) for value in self._load(_place(tensor))]
            chips = tensor.device().get_num_devices()
        else:
            found = self._host.get(tensor.tensor_id, self._host_values(tensor))
            assert found is not None, "read on the host before the copy from the device was waited for"
            values, chips = found, len(ttnn.get_device_tensors(tensor))
        return values[0] if mesh_composer is None else torch.cat([values[chip % len(values)] for chip in range(chips)])

    def _round(self, value: torch.Tensor, dtype: ttnn.DataType) -> torch.Tensor:
        if dtype == ttnn.bfloat16:
            return value.bfloat16().float()
        if dtype == ttnn.bfloat8_b:
            inside, self._inside = self._inside, True
            try:
                return ttnn.from_torch(value.contiguous(), dtype=dtype, layout=ttnn.TILE_LAYOUT).to_torch().float()
            finally:
                self._inside = inside
        return value


def _golden_function(op: Any, args: tuple[Any, ...]) -> Callable[..., Any]:
    name = op.python_fully_qualified_name
    if name in MOVES:
        return lambda tensor, *_, **__: tensor
    if name in SHARDED and args[0].is_sharded():
        return SHARDED[name]
    assert op.golden_function is not None, f"{name} has no golden function"
    return op.golden_function


def _place(tensor: Any) -> Place:
    return Place(str(tensor.memory_config().buffer_type), tensor.buffer_address(), tuple(tensor.shape), tensor.dtype)


def _map(function: Callable[[Any], Any], value: Any, kind: type = ttnn.Tensor) -> Any:
    """Replace every object of a kind within nested arguments."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_map(function, item, kind) for item in value)
    if isinstance(value, dict):
        return {key: _map(function, item, kind) for key, item in value.items()}
    return value
