"""What the processes of tests.commands are forked from has this imported: packages that most commands load, and the page's."""

import importlib
import os
from typing import Any
from unittest.mock import patch

import jobs.reporting.page.page  # noqa: F401
from jobs.running.session import set_environment

NAMES = ("ray.data", "ray._common.pydantic_compat", "ray._private.arrow_serialization", "pyarrow.dataset", "PIL.Image")


class DrawnByPython:
    """Ray's ids of actor classes, drawn without its library's generator, which all forks would else go on with."""

    @staticmethod
    def from_random() -> Any:
        from ray import ActorClassID

        return ActorClassID(os.urandom(ActorClassID.size()))


set_environment()
with patch("ray.actor.ActorClassID", DrawnByPython):
    for name in NAMES:
        importlib.import_module(name)
