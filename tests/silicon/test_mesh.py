"""On real chips: the answers that the mock could only predict, and the speed that it could not.

Run: python -m pytest -m silicon -s tests/silicon
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from tests.vit_actor.agreement import centred_pcc, plain_preprocess, random_images, reference_logits
from vit_actor.checkpoint import load_checkpoint

pytestmark = [pytest.mark.silicon, pytest.mark.timeout(1200)]

SAMPLE = Path(__file__).parents[2] / "jobs" / "sample"
PUBLISHED = 1370.0
"""Images per second and chip that Tenstorrent publishes for ViT-Base/16-224 on an n150, end to end, batch 8."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViT-Base with random weights: as fast as a trained one, and needs no download."""
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text('{"size": {"height": 224, "width": 224}}')
    return directory


def test_the_bundled_model_answers_as_transformers_does() -> None:
    from vit_actor.t3000 import T3000Vit

    model = ViTForImageClassification.from_pretrained(SAMPLE / "model").eval()
    files = sorted((SAMPLE / "images").glob("*/*.jpeg"))
    images = np.stack([np.asarray(Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)) for file in files])
    labels = np.array([int(file.parent.name) for file in files])
    expected = reference_logits(model, images, plain_preprocess(64))
    device = T3000Vit(load_checkpoint(str(SAMPLE / "model")))
    try:
        size = device.batch_size
        answers = list(device.classify(images[start : start + size] for start in range(0, len(images), size)))
    finally:
        device.close()
    predicted = np.concatenate([answer.classes[:, 0] for answer in answers])
    first, second = torch.softmax(expected, 1).topk(2).values.T
    clear = (first - second > 0.1).numpy()
    reference = expected.argmax(1).numpy()
    assert (predicted == reference)[clear].all()
    assert abs((predicted == labels).mean() - (reference == labels).mean()) <= 0.005


def test_twelve_layers_of_base_agree_with_transformers(base: Path) -> None:
    import ttnn

    from vit_actor.t3000 import T3000Vit

    images = random_images(8, 224)
    model = ViTForImageClassification.from_pretrained(base).eval()
    expected = reference_logits(model, images, plain_preprocess(224))
    device = T3000Vit(load_checkpoint(str(base)))
    try:
        device.compile()
        device._staging[0].put(images)
        answer = device._forward.start(device._staging[0].host, 0).wait()
        logits = ttnn.to_torch(answer, mesh_composer=ttnn.ConcatMeshToTensor(device._mesh, dim=0))[:8, 0, :1000].float()
    finally:
        device.close()
    assert centred_pcc(logits, expected) >= 0.99


def test_every_batch_in_flight_gets_its_own_answer(base: Path) -> None:
    from vit_actor.t3000 import T3000Vit

    device = T3000Vit(load_checkpoint(str(base)))
    try:
        distinct = [random_images(device.batch_size, 224, seed) for seed in range(3)]
        alone = [next(iter(device.classify([batch]))) for batch in distinct]
        together = list(device.classify(distinct[index % 3] for index in range(60)))
    finally:
        device.close()
    for index, answer in enumerate(together):
        assert np.array_equal(answer.classes, alone[index % 3].classes)


def test_throughput_reaches_nine_tenths_of_the_published_rate_per_chip(base: Path) -> None:
    from vit_actor.t3000 import T3000Vit

    device = T3000Vit(load_checkpoint(str(base)))
    try:
        batch = random_images(device.batch_size, 224)
        list(device.classify(repeat(batch, 50)))  # warm-up
        started, count = time.monotonic(), 0
        for _ in device.classify(_for_seconds(batch, 60)):
            count += device.batch_size
        rate = count / (time.monotonic() - started)
    finally:
        device.close()
    print(f"\n{device.description}: {rate:.0f} images/s, {1e3 * device.batch_size / rate:.2f} ms a batch of {device.batch_size}")
    assert rate >= 0.9 * PUBLISHED * device.batch_size / 8


def _for_seconds(batch: np.ndarray, seconds: float) -> Iterator[np.ndarray]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield batch
