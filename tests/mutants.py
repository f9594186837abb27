"""`python -m tests.mutants N SEED [MODULE]`: N random changes to code that must be right, each under the tests that cover it.

A change turns a comparison or a condition, moves a number by one, swaps arguments or signs, returns nothing, or leaves out a
statement, in a copy of the tree. Prints which changes the tests of `make test` notice, with each changed line, and the share.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from tests.commands import ROOT

COVERED = {
    "jobs/pipeline/ledger.py": ("tests/jobs/running/test_ledger.py",),
    "jobs/pipeline/commit.py": ("tests/jobs/running/test_commit.py", "tests/jobs/reporting/test_reduction.py"),
    "jobs/pipeline/labels.py": tuple(f"tests/pipeline/test_{n}.py" for n in ("labels", "labels_elsewhere", "sources_layouts")),
    "jobs/pipeline/read.py": ("tests/pipeline/test_read.py", "tests/pipeline/test_cache.py", "tests/pipeline/test_stages.py"),
    "jobs/pipeline/classify.py": ("tests/pipeline/test_stages.py", "tests/faults/test_actors.py"),
    "jobs/pipeline/sources/*.py": tuple(
        f"tests/pipeline/test_sources_{kind}.py" for kind in ("folders", "layouts", "parquet", "tar")
    ),
    "jobs/running/output_lock.py": ("tests/jobs/running/test_output_lock.py", "tests/object_store/test_s3.py"),
    "jobs/running/damaged.py": ("tests/jobs/running/test_damaged.py",),
    "jobs/running/arguments.py": ("tests/jobs/running/test_arguments.py", "tests/jobs/test_imagenet.py"),
    "jobs/reporting/counts.py": ("tests/jobs/reporting/test_counts.py", "tests/jobs/reporting/test_reduction.py"),
    "jobs/reporting/reduction.py": ("tests/jobs/reporting/test_reduction.py",),
}
"""Modules -> the files of default tests that hold what they do, the quickest first."""
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.Is: ast.IsNot}
TURNED |= {ast.In: ast.NotIn} | {turned: kind for kind, turned in TURNED.items()} | {ast.NotIn: ast.In}


def changes(node: ast.AST) -> Iterator[str]:
    """What to write in the place of a node, for each kind of change that there is for it."""
    match node:
        case ast.Compare(left, [operator, *operators], compared) if type(operator) in TURNED:
            yield ast.unparse(ast.Compare(left, [TURNED[type(operator)](), *operators], compared))
        case ast.BoolOp(operator, values):
            yield f"({ast.unparse(ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values))})"
        case ast.UnaryOp(ast.Not(), each):
            yield f"({ast.unparse(each)})"
        case ast.BinOp(left, ast.Add() | ast.Sub() as operator, right) if not isinstance(left, ast.Constant | ast.JoinedStr):
            yield f"({ast.unparse(ast.BinOp(left, ast.Sub() if isinstance(operator, ast.Add) else ast.Add(), right))})"
        case ast.Constant(bool(value)):
            yield str(not value)
        case ast.Constant(int() | float() as value):
            yield f"{value + 1}"
        case ast.Call(function, [first, second, *rest], named) if ast.unparse(function) not in ("min", "max"):
            yield ast.unparse(ast.Call(function, [second, first, *rest], named))
        case ast.Return(value) if value is not None and ast.unparse(value) != "None":
            yield "return None"
        case ast.AugAssign() | ast.Raise() | ast.Expr(ast.Call()) | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield "pass"


def mutants(path: Path) -> Iterator[tuple[str, str]]:
    """(the changed line as it was and is, the whole changed source) for each change that a file can have."""
    source = path.read_bytes()
    starts = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    tree = ast.parse(source)
    kinds = [getattr(node, field, None) for node in ast.walk(tree) for field in ("annotation", "returns")]
    spared = {id(each) for kind in kinds if kind for each in ast.walk(kind)}
    for node in ast.walk(tree):
        for text in changes(node) if id(node) not in spared else ():
            assert isinstance(node, ast.expr | ast.stmt)
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            was = " ".join(source[start:end].decode().split())
            yield f"{path.name}:{node.lineno}: {was} -> {text}", (source[:start] + text.encode() + source[end:]).decode()


def noticed(tree: Path, files: tuple[str, ...]) -> bool:
    """Whether the default tests in these files fail, or do not end."""
    line = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(line, cwd=tree, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as tests:
        try:
            return tests.wait(240) != 0
        except subprocess.TimeoutExpired:
            os.killpg(tests.pid, signal.SIGKILL)
            return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n\n")[0])
    parser.add_argument("count", type=int, metavar="N", help="how many changes")
    parser.add_argument("seed", type=int, metavar="SEED", help="of the choice")
    parser.add_argument("module", nargs="?", default="", metavar="MODULE", help="only of modules with this in their path")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "out", "__pycache__", ".*_cache"))
        found = []
        for place, tests in COVERED.items():
            files = [file for file in sorted(tree.glob(place)) if options.module in str(file.relative_to(tree))]
            found += [(file, tests, *each) for file in files for each in mutants(file)]
        chosen = random.Random(options.seed).sample(found, min(options.count, len(found)))
        killed = 0
        for file, tests, what, changed in chosen:
            whole = file.read_text()
            file.write_text(changed)
            killed += (caught := noticed(tree, tests))
            print(f"{'killed  ' if caught else 'SURVIVED'} {what}", flush=True)
            file.write_text(whole)
    print(f"{killed} of {len(chosen)} killed")


if __name__ == "__main__":
    main()
