"""Known batches that show whether every chip still computes what it should: all chips get the same images."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from vit_actor.device import BatchResult, Device
from vit_actor.errors import DeviceError

ROUNDS = 4
"""Batches of a check. Each place on a chip gets another image in each: with one, what was wrong there could be rounded off."""


class CheckFailed(DeviceError):
    """Chips answered the known batches wrongly. chips: their names."""

    def __init__(self, told: str, chips: Sequence[str] = ()) -> None:
        super().__init__(told)
        self.chips = list(chips)


class SelfCheck:
    """What a device with chips has to answer to `batches`, ROUNDS of uint8 (batch size, height, width, 3).

    Right is what most chips answer at first, if it agrees with the CPU. From then on it is the same to the bit, of every chip.
    Images are compared with those at their own place on another chip.
    """

    def __init__(self, device: Device) -> None:
        """Computes the reference on the CPU, which takes seconds for a large model."""
        places = device.batch_size // len(device.chips)
        known = known_images(max(places, ROUNDS), device.shape)
        moved = [np.roll(np.arange(len(known)), turn * (len(known) // ROUNDS))[:places] for turn in range(ROUNDS)]
        self.batches = [np.concatenate([known[images]] * len(device.chips)) for images in moved]
        self._chips, self._tolerance = device.chips, device.tolerance
        self._reference = device.reference(known)[np.concatenate(moved)]
        self._right: np.ndarray | None = None

    def judge(self, answers: Iterable[BatchResult]) -> None:
        """Raise CheckFailed unless the answers to `batches` are right, naming the chips that are wrong."""
        scores = np.stack([answer.scores for answer in answers if answer.scores is not None])
        by_chip = scores.reshape(ROUNDS, len(self._chips), -1, scores.shape[-1]).swapaxes(0, 1)
        by_chip = by_chip.reshape(len(self._chips), *self._reference.shape)
        right = self._right
        if right is None:
            votes = Counter(answer.tobytes() for answer in by_chip)
            right = max(by_chip, key=lambda answer: (votes[answer.tobytes()], -error(answer, self._reference)))
        wrong, told = list[str](), list[str]()
        for name, answer in zip(self._chips, by_chip, strict=True):
            if answer.tobytes() != right.tobytes():
                count, most = np.count_nonzero(answer != right), np.abs(answer - right).max()
                wrong.append(name)
                told.append(f"{name}: {count:,} of {right.size:,} scores differ, by up to {most:.3g}")
        if self._right is None and not (off := error(right, self._reference)) <= self._tolerance:
            agreeing = [name for name in self._chips if name not in wrong]
            wrong += agreeing
            far = f"{off:.3g} of their spread away from the CPU's, {self._tolerance:g} allowed"
            told.append(f"{', '.join(agreeing)}: scores are {far}")
        if wrong:
            raise CheckFailed(f"self-check failed: {'; '.join(told)}", wrong)
        self._right = right.copy()


def known_images(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 (count, *shape), always the same: 16 patches of colour and noise, so that each image has other answers."""
    random, (height, width, channels) = np.random.default_rng(0), shape
    coarse = random.integers(0, 256, (count, 4, 4, channels))
    patches = coarse.repeat(-(-height // 4), axis=1).repeat(-(-width // 4), axis=2)[:, :height, :width]
    return np.clip(patches + random.integers(-40, 41, patches.shape), 0, 255).astype(np.uint8)


def error(scores: np.ndarray, reference: np.ndarray) -> float:
    """How far scores (n, classes) are from the reference: of the worst image, rms over classes, relative to their spread."""
    spread = reference.std(axis=1) + np.finfo(np.float32).tiny
    return float((np.sqrt(np.square(scores - reference).mean(axis=1)) / spread).max())
