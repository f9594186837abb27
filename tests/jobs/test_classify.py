"""jobs.classify as a Python user calls it: in a notebook, in an initialised Ray, and again in the same process."""

import json
import os
import shutil
from pathlib import Path

from tests.commands import ROOT, Finished, run_code
from tests.conftest import RayCluster
from tests.jobs.conftest import MODEL, SAMPLE, job

NOTEBOOK = """
import ast, json, os
here = {}
for cell in json.load(open("classify.ipynb"))["cells"]:
    if cell["cell_type"] == "code":
        body = ast.parse("".join(cell["source"])).body
        shown = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), here)
        value = eval(compile(shown, "cell", "eval"), here) if shown else None
        for output in cell["outputs"]:
            assert "".join(output["data"]["text/plain"]) == repr(value), repr(value)
assert value == os.path.abspath("out/notebook/report.html")
assert "95% interval" in value._repr_html_()
"""

IN_ITS_OWN_RAY = """
import os, signal, sys, threading, time
import ray
from jobs import classify
from jobs.running.command import JobFailed
from vit_actor.errors import UserError
address, data, model, out = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
chosen = {"data": data, "model": model, "device": "simulated", "limit": 130}

def own():
    context = ray.data.DataContext.get_current()
    return sys.stdout, sys.stderr, [signal.getsignal(n) for n in (1, 2, 15)], context.enable_progress_bars, dict(os.environ)

signal.signal(signal.SIGTERM, lambda *_: None)
before, found = own(), []

def call(number):
    began = time.time()
    found.append(classify(**chosen, out=f"{out}/{number}", simulate="compute=1ms"))
    assert found[number].summary.job_seconds <= time.time() - began

call(0)
assert own() == before
second = threading.Thread(target=call, args=(1,))
second.start()
second.join()
for result in found:
    assert (result.summary.images, result.exit_code, result.predictions().count_rows()) == (130, 0, 130)
threading.Timer(4, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    classify(**chosen, out=f"{out}/2", simulate="compute=60s")
except KeyboardInterrupt:
    pass
else:
    raise AssertionError("it was not interrupted")
assert own() == before
while ray.available_resources().get("CPU", 0) < 2:  # the actors end, though this process goes on
    time.sleep(0.1)
for mistake in ({"out": f"{out}/1"}, {"out": f"{out}/3", "address": address}):
    try:
        classify(**{**chosen, **mistake})
    except UserError as error:
        print(error)
ray.shutdown()
"""


def test_the_notebook_shows_what_its_cells_say(ray_cluster: RayCluster, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs" / "sample", tmp_path / "jobs" / "sample")
    for path in (*(ROOT / "jobs").iterdir(), ROOT / "vit_actor"):
        if path.name != "sample":
            (tmp_path / path.relative_to(ROOT)).symlink_to(path)
    where = {**ray_cluster.environment, "RAY_ADDRESS": ray_cluster.address}
    run_code(NOTEBOOK, cwd=tmp_path / "jobs" / "sample", environment=where).succeeded()
    cells = json.loads((ROOT / "jobs/sample/classify.ipynb").read_text())["cells"]
    assert sum(len(cell.get("outputs", [])) for cell in cells) == 3


def test_python_keeps_its_ray_its_signals_and_its_streams_over_several_calls(ray_cluster: RayCluster, tmp_path: Path) -> None:
    environment = {**ray_cluster.environment, "PYTHONPATH": str(ROOT)}
    done = run_code(IN_ITS_OWN_RAY, ray_cluster.address, SAMPLE, MODEL, tmp_path, environment=environment).succeeded()
    assert "streaming_executor" not in done.stderr
    assert "Warning" not in done.stderr
    held, elsewhere = done.stdout.splitlines()
    assert "already holds run" in held
    assert "this process uses a Ray already" in elsewhere


def test_a_finished_run_is_judged_again_as_asked(
    ray_cluster: RayCluster, sample_run: tuple[Path, Finished], tmp_path: Path
) -> None:
    out = str(sample_run[0])
    again = ["--data", str(SAMPLE), "--out", out, "--precision", "fp32", "--resume"]
    for asked, code, told in (
        ("97%", 0, ""),
        (f"99%-of {out}", 0, ""),
        ("98.5%", 4, "error: top-1 is 97.00% (95% interval 95.11% to 98.17%), 1.500 points below --min-top1 98.5%\n"),
    ):
        done = job("imagenet", ray_cluster, *again, "--min-top1", asked)
        assert (done.code, done.stderr) == (code, told)
    (tmp_path / "photos").mkdir()
    shutil.copy(next(SAMPLE.rglob("*.jpeg")), tmp_path / "photos" / "a.jpeg")
    done = job("imagenet", ray_cluster, "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--min-top5", "1%")
    assert (done.code, "has no labels" in done.stderr, os.listdir(tmp_path)) == (2, True, ["photos"]), done.stderr
