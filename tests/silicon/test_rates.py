"""On silicon: the speed that no mock and no simulator tells, and which settings of the graph win."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ttnn
from transformers import ViTForImageClassification

from tests.silicon.test_answers import logits, opened
from tests.vit_actor.agreement import centred_pcc, plain_preprocess, random_images, reference_logits
from vit_actor.device_time import N300_CHIP_IMAGES_PER_SECOND
from vit_actor.ttnn_vit import Precision

pytestmark = [pytest.mark.silicon, pytest.mark.timeout(1200)]

Change = Callable[[Any, Any], Any]  # (plan as it is, plan of the other precision) -> plan to run


def rate(device: Any, batch: np.ndarray, seconds: float) -> float:
    """Images per second, from batch to batch for that long, after a quarter of it to warm up."""

    def again(seconds: float) -> Iterator[np.ndarray]:
        end = time.monotonic() + seconds  # from when the first is asked for
        while time.monotonic() < end:
            yield batch

    deque(device.classify(again(seconds / 4)), maxlen=0)
    started = time.monotonic()
    count = sum(len(result.classes) for result in device.classify(again(seconds)))
    return count / (time.monotonic() - started)


@pytest.mark.parametrize("precision", ["accurate", "fast"])
def test_throughput_reaches_nine_tenths_of_the_published_rate_per_chip(base: Path, precision: Precision) -> None:
    with opened(base, precision) as device:
        batch = random_images(device.batch_size, 224)
        found = rate(device, batch, 60)
        each = 1e3 * device.batch_size / found
        print(f"\n{device.description}: {found:.0f} images/s, {each:.2f} ms a batch of {device.batch_size}")
        assert found >= 0.9 * N300_CHIP_IMAGES_PER_SECOND * device.batch_size / 8


ALTERNATIVES: dict[str, Change] = {
    "as it is": lambda plan, other: plan,
    "QKV on the other's columns": lambda plan, other: replace(plan, qkv_columns=other.qkv_columns),
    "GELU by tanh": lambda plan, other: replace(plan, gelu=(ttnn.UnaryOpType.GELU_TANH, True)),
    "softmax less its largest": lambda plan, other: replace(plan, stable_softmax=True),
}


@pytest.mark.parametrize("name", ALTERNATIVES)
@pytest.mark.parametrize(("precision", "images"), [("accurate", 8), *(("fast", images) for images in (8, 6, 4, 2, 1))])
def test_each_alternative_runs_and_is_told_with_its_rate_and_agreement(
    base: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, images: int, name: str
) -> None:
    from vit_actor import t3000

    original = t3000.plan

    def changed(size: Any, precision: Precision, stable_softmax: bool = False) -> Any:
        other: Precision = "fast" if precision == "accurate" else "accurate"
        return ALTERNATIVES[name](original(size, precision, stable_softmax), original(size, other, stable_softmax))

    monkeypatch.setattr(t3000, "plan", changed)
    shown = random_images(8, 224)
    with opened(base, precision, images) as device:
        answered, found = logits(device, shown), rate(device, random_images(device.batch_size, 224), 20)
    expected = reference_logits(ViTForImageClassification.from_pretrained(base).eval(), shown, plain_preprocess(224))
    agreement = centred_pcc(answered, expected)
    print(f"\n{name}, {device.description}: {found:.0f} images/s, centred PCC {agreement:.5f}")
    assert agreement >= 0.99
