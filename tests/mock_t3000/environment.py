"""The environment variables that put a T3000 under ttnn, and the runtime directory they point at."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

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
        "TT_LOGGER_LEVEL": "fatal",
        "LOGURU_LEVEL": "WARNING",
    }


def _runtime_root(root: Path) -> Path:
    """A directory that looks like the installed ttnn package, by links, but for the compiler it lacks."""
    spec = importlib.util.find_spec("ttnn")  # located, not imported
    assert spec is not None, "ttnn is not installed"
    assert spec.origin is not None, "ttnn is not installed"
    package = Path(spec.origin).parent
    compiler = root / "runtime" / "sfpi" / "compiler" / "bin" / "riscv-tt-elf-g++"
    if compiler.exists():
        return root
    compiler.parent.mkdir(parents=True)
    for entry in package.iterdir():
        if entry.name != "runtime":
            (root / entry.name).symlink_to(entry)
    (root / "runtime" / "hw").symlink_to(package / "runtime" / "hw")
    source = Path(toolchain.__file__).read_text().split("\n", 1)[1]
    compiler.write_text(f"#!{sys.executable} -IS\n{source}")
    compiler.chmod(0o755)
    return root
