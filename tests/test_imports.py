"""Which heavy packages each command and each worker loads: a start is most of a short job, and imports are most of a start."""

import ast

import pytest

from tests.commands import ROOT, run_code

HEAVY = {"torch", "transformers", "matplotlib", "openvino", "ttnn", "pandas", "datasets", "ray", "duckdb"}
LOAD = "from vit_actor.checkpoint import load_checkpoint; checkpoint = load_checkpoint('jobs/sample/model')"
REQUEST = (
    f"{LOAD}; import jobs.pipeline.classify; from vit_actor.opening import DeviceRequest; "
    "device = DeviceRequest(device=DEVICE, name='sample', path=checkpoint.path, digest=checkpoint.digest, classes=10, "
    "batch_size=8, threads=1, precision='auto', simulate='')(); device.compile()"
)


DECODE = f"""
import numpy as np, pathlib, jobs.pipeline.list, jobs.pipeline.read
{LOAD}
from jobs.pipeline.decode import decode
photo = next(pathlib.Path('jobs/sample/images/0').iterdir())
decode(photo.read_bytes(), checkpoint.preprocess, np.empty(checkpoint.preprocess.shape, np.uint8))
"""

CASES = {
    "jobs.classify, before Ray": ("from jobs import classify", set()),
    "jobs.imagenet, before Ray": ("import jobs.imagenet", set()),
    "jobs.synthetic, before Ray": ("import jobs.synthetic", {"ray"}),
    "jobs.scaling, before Ray": ("import jobs.scaling", {"ray"}),
    "a checkpoint, looked at": (f"{LOAD}; checkpoint.digest, checkpoint.flops, checkpoint.tensors()", set()),
    "a data set, surveyed": (
        "from jobs.pipeline.sources import open_source, surveyed; "
        "surveyed(open_source('jobs/sample/images', checkpoint_classes=list(map(str, range(10)))))",
        set(),
    ),
    "a decode worker": (DECODE, {"ray"}),
    "an actor with OpenVINO": (REQUEST.replace("DEVICE", "'cpu'"), {"ray", "openvino"}),
    "an actor with a simulated device": (REQUEST.replace("DEVICE", "'simulated'"), {"ray"}),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_heavy_is_loaded_that_does_not_compute(case: str) -> None:
    code, expected = CASES[case]
    tell = "\nimport sys; print(*sorted(name for name in sys.modules if '.' not in name))"
    done = run_code(code + tell).succeeded()
    assert HEAVY & set(done.stdout.split()) <= expected


LAYERS = ("vit_actor", "jobs.storage", "jobs.pipeline", "jobs.settings", "jobs.running", "jobs.reporting", "jobs.measuring")
"""What stands behind the commands, from the bottom up: nothing imports from a layer above its own."""
COMMANDS = {"__main__", "imagenet", "synthetic", "scaling", "report"}


def layer(module: str) -> int:
    """Its place in LAYERS; the commands are on top."""
    return next((n for n, name in enumerate(LAYERS) if module == name or module.startswith(f"{name}.")), len(LAYERS))


def test_nothing_imports_from_a_layer_above_its_own_and_there_is_nothing_else() -> None:
    files = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
    folders = {path.name for path in (ROOT / "jobs").iterdir() if (path / "__init__.py").exists()}
    assert files == COMMANDS | {"settings"}
    assert folders == {"storage", "pipeline", "running", "reporting", "measuring", "sample"}
    upwards = []
    for path in sorted(file for folder in ("jobs", "vit_actor") for file in (ROOT / folder).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module.startswith("jobs.sample"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            ours = [name for name in names if name and name.startswith(("jobs", "vit_actor"))]
            upwards += [f"{module} imports {name}" for name in ours if layer(name) > layer(module)]
    assert upwards == []
