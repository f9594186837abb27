"""Faults of one chip of a mock T3000, at random, and whether the next check of the chips finds them."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ttnn
from transformers import ViTConfig, ViTForImageClassification

from tests.mock_t3000.golden import Goldens, Place, Values, _place
from vit_actor.checkpoint import Checkpoint, load_checkpoint
from vit_actor.self_check import CheckFailed, SelfCheck, known_images

CHIPS, ON_A_CHIP, SIDE = 8, 4, 32


def tiny(directory: Path) -> Checkpoint:
    """A checkpoint of one layer whose weights are large enough that its answers differ from image to image."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "num_hidden_layers": 1}
    config = ViTConfig(**sizes, image_size=SIDE, patch_size=8, num_labels=12, initializer_range=0.15)
    ViTForImageClassification(config).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(f'{{"size": {SIDE}}}')
    return load_checkpoint(str(directory))


@dataclass
class FaultyChips(Goldens):
    """Goldens under which one chip goes wrong. fault: that chip, which write of each batch is spoilt, and how.

    A batch's writes are those of true numbers; what only carries pixels is left as it is.
    """

    fault: tuple[int, int, Callable[[torch.Tensor], None]] | None = None
    written: int = 0
    writes: int = 0
    dice: random.Random = field(default_factory=random.Random)

    def _store(self, place: Place, values: Values) -> None:
        if place.dtype != ttnn.uint8:
            if self.fault and self.written % self.writes == self.fault[1]:
                values = [values[chip % len(values)].clone(memory_format=torch.contiguous_format) for chip in range(CHIPS)]
                self.fault[2](values[self.fault[0]])
            self.written += 1
        super()._store(place, values)

    @contextmanager
    def faulty(self, kind: str, chip: int, device: Any) -> Iterator[None]:
        """kind: a bit of a weight is flipped; or what some op writes is scaled or swapped."""
        image, other = self.dice.sample(range(ON_A_CHIP), 2)

        def scaled(values: torch.Tensor) -> None:  # of one core: the rows of an image, and half of their width
            values.view(ON_A_CHIP, -1, values.shape[-1])[image].chunk(2, dim=-1)[self.dice.randrange(2)].mul_(1.01)

        def swapped(values: torch.Tensor) -> None:
            images = values.view(ON_A_CHIP, -1)
            images[[image, other]] = images[[other, image]]

        weights = device._forward._forward.keywords["weights"]
        part = self.dice.choice([*vars(weights.layers[0]).values(), weights.norm, weights.classifier])
        place = _place(self.dice.choice([part.weight, part.bias, weights.patches, weights.tokens]))
        key, self.written = (place.memory, place.address), 0
        [sound] = self._device[key]
        if kind == "flipped":
            bits = sound.clone().contiguous().view(torch.int32).flatten()
            bits[self.dice.randrange(len(bits))] ^= np.array(1 << self.dice.randrange(17, 32), np.uint32).view(np.int32).item()
            broken = bits.view(torch.float32).reshape(sound.shape)
            self._device[key] = [broken if each == chip else sound for each in range(CHIPS)]
        else:
            at = 0 if kind == "swapped" else self.dice.randrange(self.writes)
            self.fault = chip, at, swapped if kind == "swapped" else scaled
        yield
        self._device[key], self.fault = [sound], None


def campaign(directory: Path, faults: int, clean: int, seed: int) -> Counter[str]:
    """How many faults of each kind changed scores by more than rounding; all those were found, and none without a fault."""
    from vit_actor.t3000 import T3000Vit

    goldens, told, known = FaultyChips(rounding=True, dice=random.Random(seed)), Counter[str](), known_images(16, (SIDE, SIDE, 3))
    with goldens, closing(T3000Vit(tiny(directory), images_per_chip=ON_A_CHIP)) as device:

        def scores(images: np.ndarray) -> np.ndarray:
            """float32 (chips, images on one, classes) of images that are the same on all chips."""
            [answer] = device.classify([np.concatenate([images] * CHIPS)])
            assert answer.scores is not None
            return answer.scores.reshape(CHIPS, ON_A_CHIP, -1)

        device.compile()
        check = SelfCheck(device)
        torch.set_num_threads(1)  # its reference took all
        check.judge(device.classify(check.batches))
        goldens.written = 0
        sound = [scores(images) for images in np.split(known, 4)]
        goldens.writes = goldens.written // 4
        for number in range(faults):
            chip, kind, shown = goldens.dice.randrange(CHIPS), ("flipped", "scaled", "swapped")[number % 3], number % 4
            found = []
            with goldens.faulty(kind, chip, device):
                difference = np.nan_to_num(np.abs(scores(np.split(known, 4)[shown]) - sound[shown]), nan=np.inf)
                try:
                    check.judge(device.classify(check.batches))
                except CheckFailed as failed:
                    found = failed.chips
            assert found in ([], [device.chips[chip]])
            assert not np.delete(difference, chip, axis=0).any()
            if difference.max() > 2**-7 * np.abs(sound[shown]).max():  # what bfloat16 rounds off is half of that
                assert found, f"fault {number}, {kind}: scores are off by {difference.max():.3g}, and the check passed"
                told[kind] += 1
        for _ in range(clean):
            check.judge(device.classify(check.batches))
    return told
