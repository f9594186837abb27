"""What is told to Ray and what is taken from it: public settings that exist, and one file for what is not public."""

import ast
import importlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from jobs.pipeline import ray_internals
from tests.commands import ROOT

FOLDERS = ("jobs", "vit_actor", "cluster")
PRIVATE_FILE = ROOT / "jobs" / "pipeline" / "ray_internals.py"
OWN = {"RAY_TMPDIR"}
"""Variables of `ray start` that are read by Python code under a name that is put together, or by start-node.sh itself."""


def reaches_inside(tree: ast.AST) -> Iterator[str]:
    """What in a syntax tree is no public interface of Ray's: private names, changed modules, mocks, also in strings."""
    modules: set[str] = set()
    documentation = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            modules |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names if alias.name.startswith("ray")}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules |= {alias.asname or alias.name for alias in node.names if re.match(r"ray(\.|$)", node.module)}
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
            names = [node.value]
        else:
            names = []
        yield from (name for name in names if re.search(r"\bray\.([\w.]+\.)?_|unittest\.mock", name))
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Attribute) and ast.unparse(target).partition(".")[0] in modules:
                yield f"{ast.unparse(target)} = ..."
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr" and ast.unparse(node.args[0]) in modules:
            yield ast.unparse(node)


def test_only_one_file_reaches_inside_ray_and_it_is_short() -> None:
    found = {}
    for file in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        if inside := list(reaches_inside(ast.parse(file.read_text()))):
            found[file] = inside
    assert set(found) <= {PRIVATE_FILE}, found
    assert len(PRIVATE_FILE.read_text().splitlines()) <= 150


@pytest.mark.parametrize("what", ["bare_node_works", "draining_nodes", "helpers_work"])
def test_the_pinned_ray_has_what_is_reached_for(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ray_internals.PLAIN_RAY, raising=False)
    assert getattr(ray_internals, what)()
    monkeypatch.setenv(ray_internals.PLAIN_RAY, "1")
    assert not getattr(ray_internals, what)()


@pytest.mark.parametrize(("module", "name"), ray_internals.HELPERS)
def test_one_thing_that_ray_does_not_have_turns_its_user_off_and_a_line_names_it(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def found() -> list[object]:
        return [getattr(importlib.import_module(there), each) for there, each in ray_internals.HELPERS if each != name]

    before = found()
    with ray_internals.without_helpers():
        assert found() != before
    assert found() == before, "Ray Data is not itself again"
    monkeypatch.delattr(f"{module}.{name}")
    monkeypatch.setattr(logging.getLogger("ray"), "propagate", True)
    with caplog.at_level("WARNING"), ray_internals.without_helpers():
        assert f"this release of Ray has no {module}.{name}" in caplog.text
        assert found() == before


def test_each_variable_of_rays_is_read_by_the_pinned_release() -> None:
    set_here = set()
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".sh", ".yaml", ".service") or file.name == "loudbox-vit.env":
                set_here |= set(re.findall(r"\bRAY_[A-Za-z][A-Za-z0-9_]+", file.read_text()))
    assert {"RAY_idle_worker_killing_time_threshold_ms", "RAY_USAGE_STATS_ENABLED"} <= set_here
    package = Path(ray.__file__).parent
    binaries = [package / "core/src/ray/raylet/raylet", package / "core/src/ray/gcs/gcs_server", package / "_raylet.so"]
    left = {name.encode() for name in set_here - OWN}
    for file in (*binaries, *package.rglob("*.py")):
        text = file.read_bytes()
        # The core's own settings are names without RAY_, which it puts in front of each.
        left -= {name for name in left if name in text or (file in binaries and name.removeprefix(b"RAY_") in text)}
        if not left:
            break
    assert left == set()
