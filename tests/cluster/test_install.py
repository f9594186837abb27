"""install.sh fetches the kernel compiler that ttnn names, once, and nothing that fails its checksum."""

import sys
from pathlib import Path

import pytest

from tests.cluster.fake_host import kernel_compiler, put
from tests.commands import ROOT, run_line

COMPILER = "runtime/sfpi/compiler/bin/riscv-tt-elf-g++"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose packages are installed, with a ttnn that names a release of sfpi on this disk."""
    put(tmp_path / "site/ttnn/tt_metal/sfpi-version", kernel_compiler(tmp_path / "sfpi", f"file://{tmp_path}/sfpi"))
    put(tmp_path / "site/ttnn/__init__.py")
    root = tmp_path / "project"
    put(root / "requirements.txt", "ttnn\n")
    put(root / ".venv/installed", "ttnn\n")
    put(root / ".venv/bin/python", f'#!/bin/sh\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n').chmod(0o755)
    put(root / "cluster/install.sh", (ROOT / "cluster/install.sh").read_text()).chmod(0o755)
    return root


def test_the_compiler_lands_where_ttnn_looks_for_it_and_is_fetched_once_and_only_with_its_checksum(project: Path) -> None:
    script, compiler = project / "cluster/install.sh", project.parent / "site/ttnn" / COMPILER
    (archive,) = (project.parent / "sfpi/releases").rglob("*.txz")
    sound = archive.read_bytes()
    archive.write_bytes(sound[:-1] + b"?")
    assert run_line(script).code != 0
    assert not (project.parent / "site/ttnn/runtime").exists()
    archive.write_bytes(sound)
    run_line(script).succeeded()
    assert compiler.stat().st_mode & 0o111
    archive.unlink()
    run_line(script).succeeded()
