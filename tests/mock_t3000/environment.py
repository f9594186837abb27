"""The environment variables that put a T3000 under ttnn, and the runtime directory they point at."""

import importlib.util
import os
from pathlib import Path
from unittest.mock import patch

from tests.mock_t3000 import cluster, toolchain


def prepare(directory: Path) -> dict[str, str]:
    """Build the mock's files in `directory` and return the environment under which ttnn finds eight Wormhole chips.

    The variables must be set before ttnn first looks for devices; it reads them once per process.
    Kernels are cached below `directory`, so a second process given the same one starts faster.
    """
    descriptor = directory / "t3000.yaml"
    descriptor.write_text(cluster.descriptor())
    return {
        "TT_METAL_MOCK_CLUSTER_DESC_PATH": str(descriptor),
        "TT_METAL_RUNTIME_ROOT": str(_runtime_root(directory / "runtime_root")),
        "TT_METAL_CACHE": str(directory / "kernels"),
        "TT_METAL_LOGS_PATH": str(directory / "logs"),
        "TT_METAL_SLOW_DISPATCH_MODE": "1",  # under fast dispatch the mock crashes where a queue waits for an event
        "TT_LOGGER_LEVEL": "off",
        "LOGURU_LEVEL": "WARNING",
    }


def activate(directory: Path) -> dict[str, str]:
    """Put the mock under this process's ttnn for good, leave its environment as it was, and return what it lacks.

    ttnn reads the environment once, when it first looks for devices. Setting it for that moment only keeps it from
    processes started later, such as Ray workers; give the returned variables to those that want the mock.
    """
    environment = prepare(directory)
    with patch.dict(os.environ, environment):
        import ttnn

        ttnn.SetRootDir(environment["TT_METAL_RUNTIME_ROOT"])  # in case ttnn was imported before
        assert ttnn.get_num_devices() == 8, "ttnn had looked for devices before the mock was there"
    return environment


def _runtime_root(root: Path) -> Path:
    """A directory that looks like the installed ttnn package, by links, but for the compiler it lacks."""
    spec = importlib.util.find_spec("ttnn")  # located, not imported
    assert spec is not None, "ttnn is not installed"
    assert spec.origin is not None, "ttnn is not installed"
    package = Path(spec.origin).parent
    compiler = root / "runtime" / "sfpi" / "compiler" / "bin" / "riscv-tt-elf-g++"
    if compiler.exists():
        return root
    toolchain.install(compiler, package / "tt_metal" / "sfpi-version")
    for entry in package.iterdir():
        if entry.name != "runtime":
            (root / entry.name).symlink_to(entry)
    (root / "runtime" / "hw").symlink_to(package / "runtime" / "hw")
    return root
