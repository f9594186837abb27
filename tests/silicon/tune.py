"""Which settings of the graph win on the chips at hand: rate and agreement of every open alternative, in turn.

python -m tests.silicon.tune --out tune.parquet [--seconds 20] [--rounds 3] [--layers 12]

An hour on a T3000. On ttnn's mock it runs too, and its figures then mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

import pandas as pd
import torch
from transformers import ViTForImageClassification

from tests.benchmarks.corpora import random_checkpoint
from tests.silicon.models import logits, rate
from tests.vit_actor.agreement import centred_pcc, plain_preprocess, random_images, reference_logits
from vit_actor.checkpoint import Checkpoint, load_checkpoint

Change = Callable[[Any, Any], Any]
"""(plan as it is, plan of the other precision) -> plan to run."""


@dataclass(frozen=True)
class Alternative:
    name: str
    precision: Literal["fast", "accurate"]
    images_per_chip: int = 8
    change: Change = lambda plan, other: plan


def _qkv_as_the_other(plan: Any, other: Any) -> Any:
    return replace(plan, qkv_columns=other.qkv_columns)


def _gelu_by_tanh(plan: Any, other: Any) -> Any:
    import ttnn

    return replace(plan, gelu=(ttnn.UnaryOpType.GELU_TANH, True))


ALTERNATIVES = (
    Alternative("accurate", "accurate"),
    Alternative("fast", "fast"),
    Alternative("accurate, QKV written on the heads' columns", "accurate", change=_qkv_as_the_other),
    Alternative("fast, QKV written on the features' columns", "fast", change=_qkv_as_the_other),
    Alternative("accurate, GELU by tanh", "accurate", change=_gelu_by_tanh),
    Alternative("fast, GELU by tanh", "fast", change=_gelu_by_tanh),
    Alternative("accurate, softmax less its largest", "accurate", change=lambda plan, _: replace(plan, stable_softmax=True)),
    *(Alternative(f"fast, {images} images a chip", "fast", images) for images in (1, 2, 4, 6)),
)


def measure(alternative: Alternative, checkpoint: Checkpoint, seconds: float) -> tuple[str, float, torch.Tensor]:
    """What ran, images/s from batch to batch for that long, and the logits of 8 images."""
    from vit_actor import t3000

    def changed(size: Any, precision: Any, stable_softmax: bool = False) -> Any:
        other: Literal["fast", "accurate"] = "fast" if precision == "accurate" else "accurate"
        return alternative.change(original(size, precision, stable_softmax), original(size, other, stable_softmax))

    original = t3000.plan
    with patch.object(t3000, "plan", changed):
        device = t3000.T3000Vit(checkpoint, precision=alternative.precision, images_per_chip=alternative.images_per_chip)
        try:
            device.compile()
            side = checkpoint.preprocess.height
            images = random_images(8, side)
            answered = logits(device, images)
            return device.description, rate(device, random_images(device.batch_size, side), seconds), answered
        finally:
            device.close()


def tune(seconds: float, rounds: int, layers: int) -> pd.DataFrame:
    """One row an alternative: name, what ran, FPS (median, least, most), agreement; best first. Rounds go through all in turn."""
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = load_checkpoint(str(random_checkpoint(Path(directory), num_hidden_layers=layers)))
        model = ViTForImageClassification.from_pretrained(directory).eval()
        side = checkpoint.preprocess.height
        expected = reference_logits(model, random_images(8, side), plain_preprocess(side))
        found: dict[str, list[tuple[str, float, torch.Tensor]]] = {alternative.name: [] for alternative in ALTERNATIVES}
        for _ in range(rounds):
            for alternative in ALTERNATIVES:
                found[alternative.name].append(measure(alternative, checkpoint, seconds))
    rows = []
    for name, runs in found.items():
        rates = [each for _, each, _ in runs]
        agreement = centred_pcc(runs[-1][2], expected)
        rows.append((name, median(rates), min(rates), max(rates), agreement, runs[0][0]))
    table = pd.DataFrame(rows, columns=["alternative", "fps", "fps_least", "fps_most", "agreement", "description"])
    return table.sort_values("fps", ascending=False, ignore_index=True)


def verdict(table: pd.DataFrame) -> str:
    """The fastest of all, and the fastest that agrees with transformers as well as `accurate` does."""
    floor = table.agreement[table.alternative == "accurate"].item() - 1e-4
    faithful = table[table.agreement >= floor]
    return f"fastest: {table.alternative[0]}\nfastest that agrees as well as accurate: {faithful.alternative.iloc[0]}"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.silicon.tune", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="tune.parquet", help="Parquet file for the table (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds a measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="layers of the model, ViT-Base has 12 (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    table = tune(args.seconds, args.rounds, args.layers)
    table.to_parquet(args.out)
    print(table.description[0])
    print(table.drop(columns="description").to_string(index=False, float_format=lambda value: f"{value:,.4f}"))
    print(verdict(table))


if __name__ == "__main__":
    main()
