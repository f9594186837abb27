"""The README and the operator's manual: each command is one that its program accepts, each message one that is printed."""

from __future__ import annotations

import re
import shlex

import pytest
from ray.scripts.scripts import cli as ray_command

from cluster import preflight
from jobs import imagenet, scaling, synthetic
from tests.conftest import ROOT

MANUAL = (ROOT / "cluster/README.md").read_text()
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README + MANUAL, re.MULTILINE | re.DOTALL)
COMMANDS = sorted({line for block in BLOCKS for line in block.splitlines()})
PARSERS = {
    "jobs.imagenet": imagenet.parse,
    "jobs.synthetic": synthetic.parse,
    "jobs.scaling": scaling.parse,
    "cluster.preflight": preflight.parse,
}
WORDS = [(command, shlex.split(command, comments=True)) for command in COMMANDS]


def after(words: list[str], *prefix: str) -> list[str] | None:
    """What follows the prefix wherever it stands in the words."""
    for start in range(len(words) - len(prefix) + 1):
        if tuple(words[start : start + len(prefix)]) == prefix:
            return words[start + len(prefix) :]
    return None


@pytest.mark.parametrize("command", [c for c, words in WORDS if after(words, "python", "-m")])
def test_each_module_it_runs_accepts_the_arguments_it_gives(command: str) -> None:
    module, *arguments = after(shlex.split(command, comments=True), "python", "-m") or []
    if module == "cluster.submit":
        module, *arguments = arguments
    PARSERS[module](arguments)  # argparse ends the process over an argument it does not know


@pytest.mark.parametrize("command", [c for c, words in WORDS if words[:1] == ["ray"]])
def test_each_ray_command_exists_with_the_options_it_gives(command: str) -> None:
    name, *arguments = shlex.split(command, comments=True)[1:]
    group = ray_command
    while name in group.commands and hasattr(group.commands[name], "commands"):
        group, (name, *arguments) = group.commands[name], arguments
    known = {option for parameter in group.commands[name].params for option in parameter.opts}
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    assert {argument for argument in own if argument.startswith("--")} <= known


def test_each_file_it_names_is_there() -> None:
    named = set(re.findall(r"\bcluster/[\w./-]+\b", README + MANUAL)) | {
        f"cluster/{name}" for name in re.findall(r"^\| `([\w./-]+)` \|", MANUAL.partition("\n## ")[0], re.MULTILINE)
    }
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []


def test_each_of_the_projects_messages_it_explains_is_still_printed() -> None:
    troubles = "".join(text.partition("\n## It does not work\n")[2].partition("\n## ")[0] for text in (README, MANUAL))
    firsts = [row.split("|")[1] for row in troubles.splitlines() if row.startswith("| ") and not row.startswith("| what")]
    quoted = [text for first in firsts for text in re.findall(r"`([^`]+)`", first)]
    sources = "".join(path.read_text() for folder in ("cluster", "jobs", "vit_actor") for path in (ROOT / folder).rglob("*.py"))
    sources += (ROOT / "cluster/start-node.sh").read_text()
    ours = {
        "no host has 4 free Tenstorrent boards": "no host has {boards} free Tenstorrent boards",
        "TTNPU: 5, but 4 boards": 'TTNPU: {counted}"',
        "not whole meshes of 4 boards": "not whole meshes of {boards} boards",
        "4 of 8": "{host.snapshot.chips} of {wanted}",
        "start-node.sh: no token": "no token in",
    }
    elsewhere = {"ray up", "/dev/shm", "ModuleNotFoundError", "Missing authentication token", "Invalid authentication token"}
    missing = [text for text in quoted if text not in elsewhere and ours.get(text, text) not in sources]
    assert len(quoted) > 10
    assert missing == []


def test_the_ports_it_opens_are_those_that_nodes_are_given() -> None:
    script = (ROOT / "cluster/start-node.sh").read_text()
    used = {int(port) for port in re.findall(r"port=(\d+)", script)}
    rows = re.findall(r"^\| ([\d, -]+) \|", MANUAL.partition("| ports |")[2], re.MULTILINE)
    opened: set[int] = set()
    for text in ", ".join(rows).split(", "):
        first, _, last = text.partition("-")
        opened |= set(range(int(first), int(last or first) + 1))
    assert used <= opened
    assert len(used) == 10
