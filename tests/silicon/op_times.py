"""How long each op of the graph takes on the chips at hand, untraced, beside what is expected of it.

python -m tests.silicon.op_times --out ops.csv [--precision accurate] [--passes 5] [--layers 12]

Times are ttnn's device profiler's. The CSV is what `tt-perf-report` reads. On ttnn's mock the profiler tells nothing, so that
this was tried with made-up times alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import pandas as pd

from tests.silicon.models import random_base
from vit_actor.checkpoint import load_checkpoint
from vit_actor.device_time import Step, steps
from vit_actor.geometry import geometry

PROFILER = ("TT_METAL_DEVICE_PROFILER", "TT_METAL_PROFILER_MID_RUN_DUMP", "TT_METAL_PROFILER_CPP_POST_PROCESS")
"""What ttnn wants set when it is imported."""
KERNEL = "DEVICE KERNEL DURATION [ns]"

OPERATIONS = {
    "linear": "Matmul",
    "matmul": "Matmul",
    "add_": "BinaryNg",
    "subtract": "BinaryNg",
    "layer_norm": "LayerNorm",
    "scale_mask_softmax_in_place": "Softmax",
    "tilize": "Tilize",
    "typecast": "Typecast",
    "to_layout": "Untilize",
    "to_memory_config": "Reshard",
    "sharded_to_interleaved": "ShardedToInterleaved",
    "slice": "Slice",
    "transformer.split_query_key_value_and_split_heads": "NlpCreateHeads",
    "transformer.concatenate_heads": "NLPConcatHeads",
}
"""tt-metal's names for what the graph calls, which tt-perf-report sorts by."""

Read = Callable[[Any], tuple[float, int]]
"""mesh -> what ran on it since the last call: microseconds of its kernels on the slowest chip, and cores."""


def kernel_time(mesh: Any) -> tuple[float, int]:
    """A `Read` by ttnn's device profiler."""
    import ttnn

    ttnn.synchronize_device(mesh)
    ttnn.ReadDeviceProfiler(mesh)
    programs = ttnn.get_latest_programs_perf_data()
    times = (sum(each.program_analyses_results[KERNEL].duration for each in chip) for chip in programs.values())
    slowest = max(times, default=0)
    return slowest / 1e3, max((each.core_count for chip in programs.values() for each in chip), default=0)


@dataclass
class Op:
    """name: the function's, without ttnn's own. microseconds: one a pass."""

    name: str
    cores: int
    tensors: dict[str, str]
    fidelity: str
    microseconds: list[float] = field(default_factory=list)


class Recorder:
    """In the place of the module `ttnn` that the graph calls: every op is waited for, and its time read."""

    def __init__(self, ttnn: Any, mesh: Any, read: Read, names: set[str]) -> None:
        self._mesh, self._read, self._names = mesh, read, names
        self._ttnn = ttnn
        self.ops: list[Op] = []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        from vit_actor import traced, ttnn_vit

        with ExitStack() as stack:
            for module in (ttnn_vit, traced):
                stack.enter_context(patch.object(module, "ttnn", self))
            yield

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ttnn, name)
        if name == "transformer":
            return _Transformer(self, found)
        return self.timed(name, found) if name in self._names else found

    def timed(self, name: str, op: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            answer = op(*arguments, **options)
            microseconds, cores = self._read(self._mesh)
            inputs = [each for each in (*arguments, *options.values()) if isinstance(each, self._ttnn.Tensor)]
            output = answer if isinstance(answer, self._ttnn.Tensor) else answer[0]
            tensors = {f"INPUT_{at}": each for at, each in enumerate(inputs)} | {"OUTPUT_0": output}
            columns = {key: value for of, tensor in tensors.items() for key, value in _columns(of, tensor).items()}
            kernel = options.get("compute_kernel_config")
            fidelity = kernel.math_fidelity.name if kernel is not None else ""
            self.ops.append(Op(name, cores, columns, fidelity, [microseconds]))
            return answer

        return call


@dataclass
class _Transformer:
    recorder: Recorder
    module: Any

    def __getattr__(self, name: str) -> Any:
        return self.recorder.timed(f"transformer.{name}", getattr(self.module, name))


def _columns(of: str, tensor: Any) -> dict[str, str]:
    memory = tensor.memory_config()
    padded, logical = ([1] * (4 - len(shape)) + list(shape) for shape in (tensor.padded_shape, tensor.shape))
    sides = {f"{of}_{axis}_PAD[LOGICAL]": f"{p}[{n}]" for axis, p, n in zip("WZYX", padded, logical, strict=True)}
    place = f"DEV_0_{memory.buffer_type.name}_{memory.memory_layout.name}"
    return sides | {f"{of}_DATATYPE": tensor.dtype.name, f"{of}_MEMORY": place, f"{of}_LAYOUT": tensor.layout.name}


def record(device: Any, passes: int, read: Read = kernel_time) -> list[Op]:
    """The ops of one batch in their order, with their times in each of so many passes; device: has just compiled."""
    import ttnn

    if not any(read(device._mesh)):  # and what ran before counts for nothing
        raise SystemExit(f"ttnn's device profiler tells nothing; it takes boards, and {', '.join(PROFILER)} set to 1")
    names = {step.op for step in steps(device._size, device._precision)}
    recorder = Recorder(ttnn, device._mesh, read, names)
    ops: list[Op] = []
    with recorder.in_place():
        for _ in range(passes):
            recorder.ops = []
            device._forward._pass(0)
            if ops:
                for op, again in zip(ops, recorder.ops, strict=True):
                    op.microseconds += again.microseconds
            else:
                ops = recorder.ops
    return ops


def expected(listed: list[Step], op: str, layers: int) -> list[Step]:
    """The steps of an op's name in the order in which a pass comes to them."""
    found: list[Step] = []
    own = (step for step in listed if step.op == op)
    for repeated, group in groupby(own, lambda step: step.times > 1):
        block = list(group)
        times = layers if repeated else 1
        found += [step for _ in range(times) for step in block for _ in range(step.times // times)]
    return found


def table(ops: list[Op], listed: list[Step], layers: int) -> pd.DataFrame:
    """One row a step of the graph: how often, cores, microseconds of one as measured and as expected, and both in all."""
    waiting = {name: iter(expected(listed, name, layers)) for name in {op.name for op in ops}}
    rows = pd.DataFrame([(op, next(waiting[op.name]), median(op.microseconds)) for op in ops], columns=["op", "step", "measured"])
    rows["cores"] = [op.cores for op in rows.op]
    rows["expected"] = [step.microseconds for step in rows.step]
    keys = pd.DataFrame({"op": [step.op for step in rows.step], "purpose": [step.purpose for step in rows.step]})
    grouped = rows.drop(columns=["op", "step"]).groupby([keys.op, keys.purpose], sort=False)
    found = grouped.agg(
        times=("measured", "size"), cores=("cores", "max"), measured=("measured", "median"), expected=("expected", "first")
    )
    found["measured_in_all"] = grouped.measured.sum()
    found["expected_in_all"] = grouped.expected.sum()
    return found.reset_index()


def perf_report(ops: list[Op]) -> pd.DataFrame:
    """The ops as `tt-perf-report` reads them."""
    rows = [
        {
            "OP CODE": f"{OPERATIONS.get(op.name, op.name)}DeviceOperation",
            "OP TYPE": "tt_dnn_device",
            "GLOBAL CALL COUNT": number,
            "DEVICE ID": 0,
            "DEVICE ARCH": "wormhole_b0",
            "ATTRIBUTES": "",
            "MATH FIDELITY": op.fidelity,
            "CORE COUNT": op.cores,
            "DEVICE FW DURATION [ns]": median(op.microseconds) * 1e3,
            KERNEL: median(op.microseconds) * 1e3,
            "OP TO OP LATENCY [ns]": 0,
            **op.tensors,
        }
        for number, op in enumerate(ops, 1)
    ]
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None, read: Read = kernel_time) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.silicon.op_times", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="ops.csv", help="file for tt-perf-report (default: %(default)s)")
    parser.add_argument("--precision", choices=("fast", "accurate"), default="accurate", help="default: %(default)s")
    parser.add_argument("--passes", type=int, default=5, help="times that each op runs (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="layers of the model, ViT-Base has 12 (default: %(default)s)")
    args = parser.parse_args(arguments)
    for name in PROFILER:
        os.environ[name] = "1"
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = load_checkpoint(str(random_base(Path(directory), args.layers)))
        from vit_actor.t3000 import T3000Vit

        device = T3000Vit(checkpoint, precision=args.precision)
        try:
            device.compile()
            ops = record(device, args.passes, read)
        finally:
            device.close()
    perf_report(ops).to_csv(args.out, index=False)
    found = table(ops, steps(geometry(checkpoint.config, 8), args.precision), args.layers)
    print(device.description)
    print(found.to_string(index=False, float_format=lambda value: f"{value:,.1f}"))
    print(
        f"together: {found.measured_in_all.sum():,.0f} us measured, {found.expected_in_all.sum():,.0f} us expected, without gaps"
    )
    print(f"for more: tt-perf-report {args.out}")


if __name__ == "__main__":
    main()
