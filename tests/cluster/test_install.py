"""install.sh fetches the kernel compiler that ttnn names, once, and nothing that fails its checksum."""

import sys
from pathlib import Path

import pytest

from tests.cluster.fake_host import kernel_compiler, put
from tests.commands import ROOT, Finished, run_line

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


def install(project: Path) -> Finished:
    return run_line(project / "cluster/install.sh")


def test_the_compiler_lands_where_ttnn_looks_for_it_and_is_not_fetched_twice(project: Path) -> None:
    install(project).succeeded()
    compiler = project.parent / "site/ttnn" / COMPILER
    assert compiler.stat().st_mode & 0o111
    for archive in (project.parent / "sfpi/releases").rglob("*.txz"):
        archive.unlink()
    assert install(project).code == 0


def test_an_archive_that_differs_from_the_checksum_is_not_unpacked(project: Path) -> None:
    (archive,) = (project.parent / "sfpi/releases").rglob("*.txz")
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    assert install(project).code != 0
    assert not (project.parent / "site/ttnn/runtime").exists()
