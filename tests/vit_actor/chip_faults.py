"""Faults of one chip of a mock T3000, at random, and whether the next check of the chips finds them.

python -m tests.vit_actor.chip_faults --faults 1000 --clean 10000 --seed 0
"""

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
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
Change = Callable[[torch.Tensor], None]


def tiny(directory: Path) -> Checkpoint:
    """A checkpoint of one layer whose weights are large enough that its answers differ from image to image."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "num_hidden_layers": 1}
    config = ViTConfig(**sizes, image_size=SIDE, patch_size=8, num_labels=12, initializer_range=0.15)
    ViTForImageClassification(config).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(f'{{"size": {SIDE}}}')
    return load_checkpoint(str(directory))


class FaultyChips:
    """A T3000Vit under Goldens. change: on which chip, what becomes of which write of a batch, after how many batches."""

    def __init__(self, directory: Path) -> None:
        from tests.mock_t3000.golden import Goldens
        from vit_actor.t3000 import T3000Vit

        self.goldens = Goldens(rounding=True)
        self.result: BatchResult | None = None
        self.written = self.writes = 0
        self.change: tuple[int, Change, int, int] | None = None
        uploaded: list[torch.Tensor] | None = None
        upload, write = self.goldens._host_values, self.goldens._store

        def host_values(host: Any) -> list[torch.Tensor]:
            nonlocal uploaded
            uploaded = upload(host)
            return uploaded

        def store(place: Any, values: list[torch.Tensor]) -> None:
            if values is uploaded:  # one batch's may come between what is computed of another
                return write(place, values)
            if self.change:
                chip, change, at, after = self.change
                if self.written % self.writes == at and self.written >= after * self.writes:
                    values = [values[each % len(values)].clone(memory_format=torch.contiguous_format) for each in range(CHIPS)]
                    change(values[chip])
            self.written += 1
            return write(place, values)

        class Noted(T3000Vit):
            def _finish(device, flight: Any) -> BatchResult:
                self.result = result = super()._finish(flight)
                return result

        def opened() -> Noted:
            self.device = Noted(tiny(directory), images_per_chip=ON_A_CHIP)
            return self.device

        self.goldens._host_values, self.goldens._store = host_values, store  # type: ignore[method-assign]
        self.goldens.__enter__()
        self.thread = DeviceThread(opened)
        self.written = 0
        self.scores(0)
        self.writes = self.written

    def scores(self, seed: int) -> np.ndarray:
        """Of random images, the same on all chips: float32 (chips, images on one, classes)."""
        images = known_images(ON_A_CHIP * (seed + 1), (SIDE, SIDE, 3))[-ON_A_CHIP:]
        self.thread.classify(np.concatenate([images] * CHIPS))
        assert self.result is not None
        assert self.result.scores is not None
        return self.result.scores.reshape(CHIPS, ON_A_CHIP, -1)

    def found(self) -> list[str]:
        """The chips that the next check names."""
        try:
            self.thread.check()
        except CheckFailed as failed:
            return failed.chips
        return []

    @contextmanager
    def fault(self, kind: str, chip: int, after: int, dice: random.Random) -> Iterator[None]:
        """kind: a bit of a weight is flipped; or what some op writes is scaled or swapped, from so many batches on."""
        if kind == "flipped":
            with self.flipped(chip, dice):
                yield
            return
        image, other = dice.sample(range(ON_A_CHIP), 2)
        half = dice.randrange(2)

        def change(values: torch.Tensor) -> None:
            rows = values.view(ON_A_CHIP, -1, values.shape[-1])
            if kind == "swapped":
                rows[[image, other]] = rows[[other, image]]
            else:  # one core's: the rows of an image, and half of their width
                rows[image].chunk(2, dim=-1)[half].mul_(1.01)

        self.change, self.written = (chip, change, 0 if kind == "swapped" else dice.randrange(self.writes), after), 0
        yield
        self.change = None

    @contextmanager
    def flipped(self, chip: int, dice: random.Random) -> Iterator[None]:
        from tests.mock_t3000.golden import _place

        forward: Any = self.device._forward
        place = _place(dice.choice(list(tensors(forward._forward.keywords["weights"]))))
        key = place.memory, place.address
        sound = self.goldens._device[key]
        bits = sound[0].clone().contiguous().view(torch.int32).flatten()
        bits[dice.randrange(len(bits))] ^= np.array(1 << dice.randrange(17, 32), np.uint32).view(np.int32).item()
        broken = bits.view(torch.float32).reshape(sound[0].shape)
        self.goldens._device[key] = [broken if each == chip else sound[0] for each in range(CHIPS)]
        yield
        self.goldens._device[key] = sound


def tensors(weights: Any) -> Iterator[Any]:
    """Those within dataclasses and tuples."""
    if not (isinstance(weights, tuple) or is_dataclass(weights)):
        yield weights
        return
    for part in weights if isinstance(weights, tuple) else vars(weights).values():
        yield from tensors(part)


def campaign(directory: Path, faults: int, clean: int, seed: int) -> Counter[str]:
    """How many faults of each kind changed scores by more than rounding; all those were found, and none without a fault."""
    chips, dice, told = FaultyChips(directory), random.Random(seed), Counter[str]()
    sound = [chips.scores(number) for number in range(4)]
    for number in range(faults):
        chip, kind, images = dice.randrange(CHIPS), ("flipped", "scaled", "scaled late", "swapped")[number % 4], number % 4
        after = dice.randrange(1, 5) if kind == "scaled late" else 0
        with chips.fault(kind, chip, after, dice):
            for before in range(after):
                assert (chips.scores(before) == sound[before]).all()
            difference = np.nan_to_num(np.abs(chips.scores(images) - sound[images]), nan=np.inf)
            found = chips.found()
        assert found in ([], [chips.device.chips[chip]])
        assert not np.delete(difference, chip, axis=0).any()
        if difference.max() > 2**-7 * np.abs(sound[images]).max():  # what bfloat16 rounds off is half of that
            assert found, f"fault {number} of seed {seed}, {kind}: scores are off by {difference.max():.3g}, and the check passed"
            told[kind] += 1
    for number in range(clean):
        assert chips.found() == [], f"clean check {number}"
    chips.thread.close()
    chips.goldens.__exit__()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.vit_actor.chip_faults", description=__doc__.split("\n\n")[0])
    for name, number in {"faults": 1000, "clean": 10_000, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        environment.activate(Path(directory))
        told = campaign(Path(directory) / "model", **vars(args))
    print(f"changed scores by more than rounding, and were found at the next check: {told}; {args.clean:,} clean checks passed")


if __name__ == "__main__":
    main()
