"""Several Ray hosts on one machine, each in namespaces of its own."""

from tests.rig.rig import Rig

__all__ = ["Rig"]
