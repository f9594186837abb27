"""Faults of one chip of a mock T3000, at random, and whether the next check of the chips finds them.

python -m tests.vit_actor.chip_faults --faults 1000 --clean 10000 --seed 0
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ViTConfig, ViTForImageClassification

from tests.mock_t3000 import environment
from vit_actor.actor import DeviceThread
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.device import BatchResult
from vit_actor.self_check import CheckFailed, known_images

CHIPS, ON_A_CHIP, SIDE = 8, 4, 32
Change = Callable[[torch.Tensor], torch.Tensor]


def tiny(directory: Path) -> Checkpoint:
    """A checkpoint of one layer whose weights are large enough that its answers differ from image to image."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "num_hidden_layers": 1}
    config = ViTConfig(**sizes, image_size=SIDE, patch_size=8, num_labels=12, initializer_range=0.3)
    ViTForImageClassification(config).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(f'{{"size": {SIDE}}}')
    return load_checkpoint(str(directory))


class FaultyChips:
    """A T3000Vit under Goldens, one chip of which can be made to go wrong."""

    def __init__(self, directory: Path) -> None:
        from tests.mock_t3000.golden import Goldens
        from vit_actor.t3000 import T3000Vit

        self.goldens = Goldens(rounding=True)
        self.results: list[BatchResult] = []

        class Noted(T3000Vit):
            def _finish(device, flight: Any) -> BatchResult:
                self.results.append(super()._finish(flight))
                return self.results[-1]

        def opened() -> Noted:
            self.device = Noted(tiny(directory), images_per_chip=ON_A_CHIP)
            return self.device

        self._store = self.goldens._store
        with self.counted():
            self.goldens.__enter__()
            self.thread = DeviceThread(opened)
        self.names = self.device.chips
        with self.counted() as stores:
            self.scores(0)
        self.stores = len(stores)

    @contextmanager
    def counted(self) -> Iterator[list[Any]]:
        stores: list[Any] = []

        def noted(place: Any, values: list[torch.Tensor]) -> None:
            stores.append(place)
            self._store(place, values)

        self.goldens._store = noted  # type: ignore[method-assign]
        yield stores
        self.goldens._store = self._store  # type: ignore[method-assign]

    def scores(self, seed: int) -> np.ndarray:
        """Of a batch of random images, the same on all chips: float32 (chips, images on one, classes)."""
        images = known_images(ON_A_CHIP * (seed + 1), (SIDE, SIDE, 3))[-ON_A_CHIP:]
        self.thread.classify(np.concatenate([images] * CHIPS))
        found = self.results[-1].scores
        assert found is not None
        self.results.clear()
        return found.reshape(CHIPS, ON_A_CHIP, -1)

    def found(self) -> list[str]:
        """The chips that the next check names."""
        try:
            self.thread.check()
        except CheckFailed as failed:
            return failed.chips
        return []

    def weights(self) -> list[tuple[str, int]]:
        """Where the weights lie in the memory of every chip."""
        from tests.mock_t3000.golden import _place

        def tensors(part: Any) -> Iterator[Any]:
            if is_dataclass(part) or isinstance(part, tuple):
                for each in part if isinstance(part, tuple) else [getattr(part, field.name) for field in fields(part)]:
                    yield from tensors(each)
            else:
                yield part

        forward: Any = self.device._forward
        places = [_place(tensor) for tensor in tensors(forward._forward.keywords["weights"])]
        return [(place.memory, place.address) for place in places]

    @contextmanager
    def flipped(self, chip: int, dice: random.Random) -> Iterator[None]:
        """A bit of one weight."""
        place = dice.choice(self.weights())
        sound = self.goldens._device[place]
        bits = sound[0].clone().contiguous().view(torch.int32).flatten()
        bits[dice.randrange(len(bits))] ^= np.array(1 << dice.randrange(17, 32), np.uint32).view(np.int32).item()
        broken = bits.view(torch.float32).reshape(sound[0].shape)
        self.goldens._device[place] = [broken if each == chip else sound[0] for each in range(CHIPS)]
        yield
        self.goldens._device[place] = sound

    @contextmanager
    def changed(self, chip: int, change: Change, at: int, after: int) -> Iterator[None]:
        """What one op writes on a chip, from so many batches on. at: which op of a batch."""
        count = 0

        def store(place: Any, values: list[torch.Tensor]) -> None:
            nonlocal count
            if count % self.stores == at and count >= after * self.stores:
                values = [values[each % len(values)] for each in range(CHIPS)]
                values[chip] = change(values[chip].clone())
            count += 1
            self._store(place, values)

        self.goldens._store = store  # type: ignore[method-assign]
        yield
        self.goldens._store = self._store  # type: ignore[method-assign]


def scaled(dice: random.Random) -> Change:
    """One core's rows: those of an image, and half of their width."""
    image, half = dice.randrange(ON_A_CHIP), dice.randrange(2)

    def change(values: torch.Tensor) -> torch.Tensor:
        rows = values.reshape(ON_A_CHIP, -1, values.shape[-1])
        width = rows.shape[-1] // 2
        rows[image, :, half * width : (half + 1) * width] *= 1.01
        return values

    return change


def swapped(dice: random.Random) -> Change:
    one, other = dice.sample(range(ON_A_CHIP), 2)

    def change(values: torch.Tensor) -> torch.Tensor:
        rows = values.reshape(ON_A_CHIP, -1)
        rows[[one, other]] = rows[[other, one]]
        return values

    return change


def campaign(directory: Path, faults: int, clean: int, seed: int) -> dict[str, int]:
    """How many faults of each kind changed scores by more than rounding; all those were found, and none without a fault."""
    chips, dice = FaultyChips(directory), random.Random(seed)
    told: dict[str, int] = {}
    sound = {number: chips.scores(number) for number in range(4)}
    for number in range(faults):
        chip, kind = dice.randrange(CHIPS), ("flipped", "scaled", "scaled late", "swapped")[number % 4]
        after = dice.randrange(1, 5) if kind == "scaled late" else 0
        at = 0 if kind == "swapped" else dice.randrange(1, chips.stores)
        change = swapped(dice) if kind == "swapped" else scaled(dice)
        with chips.flipped(chip, dice) if kind == "flipped" else chips.changed(chip, change, at, after):
            for before in range(after):
                assert (chips.scores(before % 4) == sound[before % 4]).all()
            difference = np.nan_to_num(np.abs(chips.scores(number % 4) - sound[number % 4]), nan=np.inf)
            found = chips.found()
        assert found in ([], [chips.names[chip]])
        assert not difference[[each for each in range(CHIPS) if each != chip]].any()
        if difference.max() > 2**-7 * np.abs(sound[number % 4]).max():  # what bfloat16 rounds off is half of that
            assert found, f"fault {number} of seed {seed}, {kind}: scores are off by {difference.max():.3g}, and the check passed"
            told[kind] = told.get(kind, 0) + 1
    for number in range(clean):
        assert chips.found() == [], f"clean check {number}"
    chips.thread.close()
    chips.goldens.__exit__()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.vit_actor.chip_faults", description=__doc__.split("\n\n")[0])
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--clean", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        environment.activate(Path(directory))
        told = campaign(Path(directory) / "model", args.faults, args.clean, args.seed)
    print(f"changed scores by more than rounding, and were found at the next check: {told}; {args.clean:,} clean checks passed")


if __name__ == "__main__":
    main()
