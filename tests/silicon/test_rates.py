"""On silicon: the speed that no mock and no simulator tells."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tests.silicon.models import rate
from tests.silicon.test_answers import opened
from tests.vit_actor.agreement import random_images
from vit_actor.device_time import N300_CHIP_IMAGES_PER_SECOND

pytestmark = [pytest.mark.silicon, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("precision", ["accurate", "fast"])
def test_throughput_reaches_nine_tenths_of_the_published_rate_per_chip(
    base: Path, precision: Literal["accurate", "fast"]
) -> None:
    with opened(base, precision) as device:
        batch = random_images(device.batch_size, 224)
        found = rate(device, batch, 60)
        each = 1e3 * device.batch_size / found
        print(f"\n{device.description}: {found:.0f} images/s, {each:.2f} ms a batch of {device.batch_size}")
        assert found >= 0.9 * N300_CHIP_IMAGES_PER_SECOND * device.batch_size / 8
