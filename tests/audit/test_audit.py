"""What the project depends on and never does, checked without a network."""

import ast
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.commands import ROOT

FILES = ["requirements.txt", "requirements-dev.txt", "requirements-uv.txt"]
SHIPPED = sorted(path for folder in ("jobs", "vit_actor", "cluster") for path in (ROOT / folder).rglob("*.py"))
FORBIDDEN_CALLS = {"pickle.load", "pickle.loads", "torch.load", "joblib.load", "yaml.load", "eval", "exec", "os.system"}
"""Ways for data or a checkpoint to become code."""


def pins(file: str) -> list[tuple[Requirement, list[str]]]:
    """(requirement, its hashes) of every entry."""
    text = re.sub(r"#.*", "", (ROOT / file).read_text()).replace("\\\n", " ")
    entries = [line.split("--hash=") for line in text.splitlines() if line.strip()]
    return [(Requirement(entry[0].strip()), [part.strip() for part in entry[1:]]) for entry in entries]


def calls(source: str) -> set[str]:
    """Dotted names of everything a source calls, such as pickle.load, whatever names it imported them under."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names |= {alias.asname or alias.name: f"{module}{alias.name}" for alias in node.names}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, *rest = ast.unparse(node.func).split(".")
            found.add(".".join([names.get(first, first), *rest]))
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_dependency_is_pinned_to_one_version_and_its_hashes(file: str) -> None:
    for requirement, hashes in pins(file):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), requirement


def test_what_is_installed_is_what_is_pinned() -> None:
    differing = {}
    for requirement, _ in pins("requirements.txt"):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            installed = "nothing"
        if not requirement.specifier.contains(installed, prereleases=True):
            differing[str(requirement)] = installed
    assert not differing


def test_no_pin_has_a_known_hole() -> None:
    lines = (Path(__file__).parent / "known_bad.txt").read_text().splitlines()
    holes = [Requirement(line.split()[0]) for line in lines if not line.startswith("#")]
    assert len(holes) > 5
    pinned = [(file, requirement) for file in FILES for requirement, _ in pins(file)]
    for bad in holes:
        for file, requirement in pinned:
            if requirement.name.lower() == bad.name:
                (specifier,) = requirement.specifier
                assert not bad.specifier.contains(specifier.version, prereleases=True), f"{file}: {requirement}"


def test_no_source_turns_data_into_code() -> None:
    for path in SHIPPED:
        source = path.read_text()
        assert not calls(source) & FORBIDDEN_CALLS, path
        assert not re.search(r"trust_remote_code\s*=|shell\s*=\s*True|allow_pickle\s*=\s*True", source), path
    disguised = "import pickle as p\nfrom torch import load as fetch\np.loads(b'')\nfetch('x')"
    assert calls(disguised) >= {"pickle.loads", "torch.load"}
