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
from pathlib import Path

from tests.commands import ROOT

RUNNING, PIPELINE, REPORTING = "tests/jobs/running", "tests/pipeline", "tests/jobs/reporting"
COVERED = {
    "jobs/pipeline/ledger.py": (f"{RUNNING}/test_ledger.py", f"{PIPELINE}/test_stages.py", "tests/faults/test_actors.py"),
    "jobs/pipeline/commit.py": (f"{RUNNING}/test_commit.py", f"{REPORTING}/test_reduction.py", "tests/faults/test_driver.py"),
    "jobs/pipeline/labels.py": (f"{PIPELINE}/test_labels.py", f"{PIPELINE}/test_labels_elsewhere.py"),
    "jobs/pipeline/read.py": (f"{PIPELINE}/test_stages.py", f"{PIPELINE}/test_read.py", f"{PIPELINE}/test_cache.py"),
    "jobs/pipeline/classify.py": (f"{PIPELINE}/test_stages.py", "tests/faults/test_actors.py"),
    "jobs/pipeline/sources": tuple(f"{PIPELINE}/test_sources_{kind}.py" for kind in ("folders", "layouts", "parquet", "tar")),
    "jobs/running/output_lock.py": (f"{RUNNING}/test_output_lock.py", "tests/object_store/test_s3.py"),
    "jobs/running/arguments.py": (f"{RUNNING}/test_arguments.py", "tests/jobs/test_imagenet.py"),
    "jobs/reporting/counts.py": (f"{REPORTING}/test_counts.py", f"{REPORTING}/test_reduction.py"),
    "jobs/reporting/reduction.py": (f"{REPORTING}/test_reduction.py",),
}
"""Module or folder -> the files of default tests that hold what it does, the quickest first."""
LIMIT = 240.0
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}


def changes(node: ast.AST) -> Iterator[str]:
    """What to write in the place of a node, once for each kind of change that there is for it."""
    match node:
        case ast.Compare(left, [operator, *operators], compared) if type(operator) in TURNED:
            yield ast.unparse(ast.Compare(left, [TURNED[type(operator)](), *operators], compared))
        case ast.BoolOp(operator, values):
            yield f"({ast.unparse(ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values))})"
        case ast.UnaryOp(ast.Not(), operand):
            yield f"({ast.unparse(operand)})"
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
        case (
            ast.AugAssign() | ast.Raise() | ast.Delete() | ast.Expr(ast.Call()) | ast.Assign([ast.Attribute() | ast.Subscript()])
        ):
            yield "pass"


def mutants(path: Path) -> Iterator[tuple[str, str]]:
    """(the changed line as it was and is, the whole changed source) for each change that a file can have."""
    source = path.read_text()
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    whole, tree = source.encode(), ast.parse(source)
    kinds = [
        each for node in ast.walk(tree) for each in (getattr(node, "annotation", None), getattr(node, "returns", None)) if each
    ]
    spared = {id(node) for kind in kinds for node in ast.walk(kind)}
    for node in ast.walk(tree):
        for text in changes(node) if id(node) not in spared else ():
            assert isinstance(node, ast.expr | ast.stmt)
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            was = " ".join(whole[start:end].decode().split())
            changed = (whole[:start] + text.encode() + whole[end:]).decode()
            yield f"{path.name}:{node.lineno}: {was} -> {text}", changed


def noticed(tree: Path, files: tuple[str, ...]) -> bool:
    """Whether the default tests in these files fail, or do not end."""
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *(file for file in files if (tree / file).exists()),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    tests = subprocess.Popen(line, cwd=tree, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        return tests.wait(LIMIT) != 0
    except subprocess.TimeoutExpired:
        os.killpg(tests.pid, signal.SIGKILL)
        tests.wait()
        return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n\n")[0])
    parser.add_argument("count", type=int, metavar="N", help="how many changes")
    parser.add_argument("seed", type=int, metavar="SEED", help="of the choice")
    parser.add_argument("module", nargs="?", default="", metavar="MODULE", help="only of modules with this in their path")
    parser.add_argument("--quick", action="store_true", help="only the first file of tests of each module")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "out", "__pycache__", ".*_cache"))
        found = []
        for place, tests in COVERED.items():
            files = sorted((tree / place).glob("*.py")) if (tree / place).is_dir() else [tree / place]
            tests = tests[:1] if options.quick else tests
            found += [(file, tests, *each) for file in files if options.module in str(file) for each in mutants(file)]
        chosen = random.Random(options.seed).sample(found, min(options.count, len(found)))
        killed = 0
        for file, tests, what, changed in chosen:
            whole = file.read_text()
            file.write_text(changed)
            caught = noticed(tree, tests)
            file.write_text(whole)
            killed += caught
            print(f"{'killed  ' if caught else 'SURVIVED'} {what}", flush=True)
    print(f"{killed} of {len(chosen)} killed")


if __name__ == "__main__":
    main()
