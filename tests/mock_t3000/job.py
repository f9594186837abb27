"""`python -m tests.mock_t3000.job ARGUMENTS`: jobs.imagenet on a cluster whose actors find mock boards under ttnn.

Everything is the job's own but the chips: Ray hands out the boards, the actor opens the mesh, compiles, captures and
streams; what the chips would compute comes from the goldens, in float32.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from jobs import imagenet
from jobs.running.command import run
from jobs.settings import ImagenetSettings, Settings
from vit_actor.device import Device
from vit_actor.opening import DeviceRequest


@dataclass(frozen=True)
class MockedRequest:
    """A DeviceRequest that puts the mock under ttnn first, in the actor's process."""

    request: DeviceRequest

    def __call__(self) -> Device:
        import torch

        from tests.mock_t3000 import environment
        from tests.mock_t3000.golden import Goldens

        os.environ.update(environment.prepare(Path(tempfile.mkdtemp(prefix="mock-t3000-"))))
        torch.set_num_threads(1)
        Goldens(rounding=False).__enter__()  # for as long as the process lives
        return self.request()


def mocked(*arguments: Any, **options: Any) -> MockedRequest:
    return MockedRequest(Settings.request(*arguments, **options))


if __name__ == "__main__":
    from tests.mock_t3000 import job  # by its importable name, so that actors can unpickle MockedRequest

    with patch.object(ImagenetSettings, "request", job.mocked):
        run(imagenet.main)
