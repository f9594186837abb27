"""The documents: each command is run or says what it takes, each option exists and is explained, each message is printed."""

import ast
import math
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_command

from cluster import preflight
from jobs import report
from jobs.pipeline.chunk import CHUNK_IMAGES
from jobs.pipeline.shares import SHARE_IMAGES_PER_SECOND
from jobs.running.command import parse
from jobs.settings import JOBS
from tests.commands import ROOT, run_code, run_line
from tests.conftest import RayCluster
from vit_actor.device_time import T3000_IMAGES_PER_SECOND

DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for folder in (".", "cluster", "jobs", "tests", "vit_actor")
    for path in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
}
README, MANUAL = DOCUMENTS["README.md"], DOCUMENTS["cluster/README.md"]
TAKES = {"silicon", "simulator", "cluster", "network", "minutes", "root"}
"""What a block of commands may take that a test does not have; said after its language."""

PARSERS: dict[str, Callable[[list[str]], object]] = {
    **{f"jobs.{job}": partial(parse, kind, module=f"jobs.{job}", about=None) for job, kind in JOBS.items()},
    "jobs.report": report.parse,
    "cluster.preflight": preflight.parse,
}
COMMANDS_WITH_OPTIONS = [*PARSERS, "cluster.submit", "tests.rig.__main__", "tests.soak"]
OF_OTHER_PROGRAMS = {"--dest", "--shm-size", "--now", "--web.listen-address", "--config.file"}


@dataclass(frozen=True)
class Block:
    """A fenced block: where, its language, what it takes, its lines."""

    document: str
    language: str
    takes: str
    lines: tuple[str, ...]


BLOCKS = [
    Block(name, opening.partition(" ")[0], opening.partition(" ")[2], tuple(body.splitlines()))
    for name, text in DOCUMENTS.items()
    for opening, body in re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]
SHELL = [(block, line) for block in BLOCKS if block.language == "bash" for line in block.lines if line.strip()]
COMMANDS = sorted({line for _, line in SHELL})
WORDS = [(command, shlex.split(command, comments=True)) for command in COMMANDS]
PYTHON_M = {"python", "-m"}
RUN_HERE = list(dict.fromkeys(line for block, line in SHELL if not block.takes))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it lies, in a directory of its own, so that what the commands leave is not left in the project."""
    here = tmp_path_factory.mktemp("project")
    for path in ROOT.iterdir():
        if path.name not in ("out", ".git"):
            (here / path.name).symlink_to(path)
    return here


@pytest.mark.parametrize("command", RUN_HERE)
def test_each_command_that_takes_nothing_special_runs_in_the_documents_order(
    command: str, copy: Path, ray_cluster: RayCluster
) -> None:
    """Each builds on what those before it left. On a cluster that is there, since starting Ray is most of a short job's time."""
    here = {"RAY_ADDRESS": ray_cluster.address, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run_line("bash", "-c", command, cwd=copy, environment=ray_cluster.environment | here).succeeded()


def test_what_is_not_run_says_what_it_takes_and_no_command_hides_in_a_block_of_another_kind() -> None:
    assert {block.language for block in BLOCKS} == {"bash", "python", "sql", ""}
    assert {block.takes for block in BLOCKS} <= {"", *TAKES}
    assert all(block.language == "bash" for block in BLOCKS if block.takes)
    assert len(RUN_HERE) > 6
    assert len({line for block, line in SHELL if block.takes}) > 30
    programs = {words[0] for _, words in WORDS if words}
    plain = [line for block in BLOCKS if block.language == "" for line in block.lines]
    assert [line for line in plain if line.split()[:1] and line.split()[0] in programs] == []
    assert [line for text in DOCUMENTS.values() for line in re.findall(r"(?<=\n\n) {4}(\S.*)", text)] == []
    # What is no shell's is run by a test.
    others = {block.document for block in BLOCKS if block.language in ("python", "sql")}
    assert others == {"jobs/queries.md", "tests/mock_t3000/README.md"}


def test_the_mocks_example_runs(tmp_path: Path) -> None:
    [example] = [block for block in BLOCKS if block.document == "tests/mock_t3000/README.md" and block.language == "python"]
    program = "\n".join(["from pathlib import Path", f"directory = Path({str(tmp_path)!r})", *example.lines])
    run_code(program).succeeded()


def test_each_module_and_each_ray_command_it_runs_accepts_the_arguments_it_gives() -> None:
    lines = [words[words.index("-m") + 1 :] for _, words in WORDS if set(words) >= PYTHON_M]
    assert len(lines) > 20
    for module, *arguments in lines:
        if module == "cluster.submit":
            module, *arguments = arguments
        if module in PARSERS:
            PARSERS[module](arguments)  # raises UserError for an argument it does not know
        else:
            place = ROOT / module.replace(".", "/")
            assert module == "pytest" or place.is_dir() or place.with_suffix(".py").exists(), module
    of_ray = [words[1:] for _, words in WORDS if words[:1] == ["ray"]]
    assert len(of_ray) > 5
    for name, *arguments in of_ray:
        group = ray_command
        while name in group.commands and hasattr(group.commands[name], "commands"):
            group, (name, *arguments) = group.commands[name], arguments
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        own = arguments[: arguments.index("--")] if "--" in arguments else arguments
        assert {argument for argument in own if argument.startswith("--")} <= known, name


def test_each_make_target_it_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for _, words in WORDS if words[:1] == ["make"]}
    named |= {name for text in DOCUMENTS.values() for name in re.findall(r"`make ([a-z]+)", text)}
    assert {"demo", "test", "bench", "lock"} <= named <= targets


def help_of(module: str) -> str:
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(sys, "argv", [module, "--help"])
        with pytest.raises(SystemExit):
            import_module(module).main()
    return printed.getvalue()


def test_every_option_is_explained_in_a_document_and_every_option_in_a_document_exists() -> None:
    text = "\n".join(DOCUMENTS.values())
    options = {module: set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_of(module))) for module in COMMANDS_WITH_OPTIONS}
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) | {"--help"}
    assert min(map(len, options.values())) > 1
    assert {module: sorted(found - told) for module, found in options.items() if found - told} == {}
    groups = [ray_command, *(each for each in ray_command.commands.values() if hasattr(each, "commands"))]
    of_ray = {o for group in groups for each in group.commands.values() for parameter in each.params for o in parameter.opts}
    known = set().union(*options.values()) | of_ray | OF_OTHER_PROGRAMS
    assert sorted(set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)) - known) == []


def test_each_file_and_each_link_is_there() -> None:
    """A link leads to a file and, where it says so, to a heading in it."""
    named = {*re.findall(r"\bcluster/[\w./-]+\b", README + MANUAL)}
    named |= {f"cluster/{name}" for name in re.findall(r"^\| `([\w./-]+)` \|", MANUAL.partition("\n## ")[0], re.MULTILINE)}
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []
    links = [(name, link) for name, text in DOCUMENTS.items() for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)]
    assert len(links) > 10
    for name, link in links:
        path, _, heading = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, f"{name}: {link}"


def test_each_of_the_projects_messages_it_explains_is_still_printed() -> None:
    trouble = MANUAL.partition("\n## It does not work\n")[2].partition("\n## ")[0]
    firsts = [row.split("|")[1] for row in trouble.splitlines() if row.startswith("| ") and not row.startswith("| what")]
    quoted = [text for first in firsts for text in re.findall(r"`([^`]+)`", first)]
    sources = "".join(path.read_text() for folder in ("cluster", "jobs", "vit_actor") for path in (ROOT / folder).rglob("*.py"))
    sources += (ROOT / "cluster/start-node.sh").read_text()
    ours = {
        "no host has 4 free Tenstorrent boards": "no host has {boards} free Tenstorrent boards",
        "start-node.sh: no token": "no token in",
    }
    elsewhere = {"ray up", "ModuleNotFoundError", "Missing authentication token", "Invalid authentication token"}
    patterns = {text: re.sub(r"\d+", r"(\\d+|{[^{}]+})", re.escape(ours.get(text, text))) for text in quoted}
    assert len(quoted) > 10
    assert [text for text in quoted if text not in elsewhere and not re.search(patterns[text], sources)] == []


LARGER = DOCUMENTS["jobs/README.md"].partition("## Larger clusters")[2]


def test_the_arithmetic_of_larger_clusters_follows_from_the_codes_figures() -> None:
    batches = 10_000 // CHUNK_IMAGES * CHUNK_IMAGES // 64 + math.ceil(10_000 % CHUNK_IMAGES / 64)
    mesh = T3000_IMAGES_PER_SECOND * 10_000 / (batches * 64)  # a short batch takes as long as a full one
    assert f"{batches} batches of 64" in LARGER
    rows = [[cell.strip().replace(",", "") for cell in line.strip("| ").split("|")] for line in LARGER.splitlines()]
    clusters = [row for row in rows if len(row) == 6 and row[0].isdigit()]
    assert [row[0] for row in clusters] == ["1", "4", "16", "64", "1000"]
    for boxes, one_stream, bound, rate, streams, time in clusters:
        all_meshes, (number, unit) = int(boxes) * mesh, time.split()
        least = min(all_meshes, SHARE_IMAGES_PER_SECOND)
        assert [float(one_stream), float(rate)] == pytest.approx([least, all_meshes], abs=1)
        assert bound == ("device" if least == all_meshes else "driver")
        assert int(streams) == math.ceil(all_meshes / SHARE_IMAGES_PER_SECOND)
        assert float(number) == pytest.approx(1e9 / all_meshes / {"h": 3600, "min": 60}[unit], abs=0.05)


def test_each_promise_has_a_test_that_is_run_by_default() -> None:
    named = re.findall(r"^\| .+ \| `(\S+)::(\w+)` \|$", DOCUMENTS["tests/README.md"], re.MULTILINE)
    assert len(named) > 40
    for file, name in named:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        assert len(found) == 1, f"{file}::{name}"
        marks = [ast.unparse(mark) for mark in found[0].decorator_list]
        marks += [ast.unparse(node) for node in tree.body if "pytestmark" in ast.unparse(node).partition("=")[0]]
        slow = [mark for mark in marks if re.search(r"mark\.(slow|silicon)(?!\W*id=)", mark.partition("parametrize")[0])]
        assert not slow, name


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
