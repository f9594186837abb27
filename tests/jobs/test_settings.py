"""Settings: what they accept, from a terminal and from Python alike, and what is said of a mistake."""

import inspect
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import __main__ as jobs_main
from jobs import classify
from jobs.pipeline.placement import Placement
from jobs.reporting.outcome import Result
from jobs.running import command
from jobs.settings import ImagenetSettings, check_apart
from tests.commands import ROOT, run_line, run_module
from tests.jobs.conftest import MODEL, ended
from vit_actor.checkpoint import load_checkpoint
from vit_actor.errors import UserError

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def parse(arguments: list[str]) -> ImagenetSettings:
    return command.parse(ImagenetSettings, arguments, "jobs.imagenet", None)


def test_relative_paths_are_below_the_working_directory_and_uris_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUBMITTED, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    Path("model").mkdir()
    base = "google/vit-base-patch16-224"
    for (data, out, model), found in (
        (("/x", "/y", f"file://{tmp_path}/a%20b"), ("/x", "/y", f"{tmp_path}/a b")),
        (("images", "runs/1", "model"), (f"{tmp_path}/images", f"{tmp_path}/runs/1", f"{tmp_path}/model")),
        (("~/images", "/runs/1", base), ("/home/somebody/images", "/runs/1", base)),
        (("hf://datasets/a/b", "s3://bucket/run", base), ("hf://datasets/a/b", "s3://bucket/run", base)),
    ):
        settings = parse(["--data", data, "--out", out, "--model", model])
        assert (settings.data, settings.out, settings.model) == found


def test_a_submitted_jobs_paths_are_below_its_copy_but_for_where_results_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMITTED, "{}")
    settings = parse(["--data", "jobs/sample/images", "--out", "/mnt/run", "--model", "jobs/sample/model"])
    assert (settings.data, settings.model) == ("jobs/sample/images", "jobs/sample/model")
    with pytest.raises(UserError, match="relative to a submitted job's copy"):
        parse(["--data", "jobs/sample/images", "--out", "run"])


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["--max-errors", "1%"], {"max_errors": 0.01}),
        (["--max-errors", "0.5"], {"max_errors": 0.5}),
        (["--max-errors", "7"], {"max_errors": np.int64(7)}),
        (["--cache", "/c", "--cache-limit", "50GB"], {"cache": "/c", "cache_limit": "50000000000"}),
        (["--max-errors", "7"], {"max_errors": "7"}),
        (["--cache", "/c", "--cache-limit", "1.5gb"], {"cache": Path("/c"), "cache_limit": 1_500_000_000}),
        (["--min-top1", "99%-of", "/runs/a b"], {"min_top1": "99%-of /runs/a b"}),
        (["--wait", "5", "--device-limit=900", "--meshes=2"], {"wait": 5, "device_limit": 900, "meshes": 2}),
        (["--cpus-per-actor", "0.5", "--device", "simulated"], {"cpus_per_actor": 0.5, "device": "simulated"}),
    ],
    ids=str,
)
def test_a_terminal_and_python_give_the_same_settings(typed: list[str], given: dict[str, Any]) -> None:
    settings = parse(["--data", "/d", "--out", "/o", *typed])
    assert settings == ImagenetSettings(data="/d", out="/o", **given)
    request = settings.request(load_checkpoint(str(MODEL)), Placement("t3000", 1, 1.0, 4, 1.0))
    assert request.open_seconds == given.get("device_limit", 120)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"meshes": 0}, "--meshes 0: give a whole number of at least 1"),
        ({"meshes": 1.5}, "--meshes 1.5: give a whole number of at least 1"),
        ({"limit": "many"}, "--limit many: give a whole number of at least 1"),
        ({"limit": True}, "--limit True: give a whole number of at least 1"),
        ({"wait": None}, "--wait None: give a number of at least 0"),
        ({"wait": "nan"}, "--wait nan: give a number of at least 0"),
        ({"cpus_per_actor": -1}, "--cpus-per-actor -1: give a number of at least 0"),
        ({"max_errors": "1 %%"}, "--max-errors 1 %%: give a number of images or a percentage such as 1%"),
        ({"max_errors": -1}, "--max-errors -1: give a number of images"),
        ({"max_errors": "150%"}, "--max-errors 1.5 is more than all images; give a number of images"),
        ({"overwrite": "no"}, "--overwrite no: give True or False"),
        ({"cache": "/c", "cache_limit": "50"}, "--cache-limit 50: give a size such as 50GB"),
        ({"cache_limit": "5GB"}, "--cache-limit goes with --cache"),
        ({"device": "gpu"}, "--device gpu: give auto or t3000 or cpu or simulated"),
        ({"min_top1": "0.8"}, "--min-top1 0.8: give a percentage such as 80%, or 99%-of RUN"),
        ({"min_top5": "101%"}, "--min-top5 101%: give a percentage"),
        ({"min_top5": "80%", "labels": "none"}, "--min-top5 needs labels"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite exclude each other"),
        ({"simulate": "compute=1ms"}, "--simulate goes with --device simulated, not auto"),
        *(
            ({name: ""}, f"--{name} : give text that is not empty")
            for name in ("data", "out", "model", "labels", "cache", "title")
        ),
        ({"out": "memory://x"}, "is lost with this process"),
        ({"model": "a\x1bb"}, "not printable text in UTF-8"),
        ({"data": "/o/images"}, "--data /o/images and --out /o are the same directory, or one is inside the other"),
        ({"device": "t3000", "precision": "fp32"}, "--precision fp32: device t3000 takes auto or fast or accurate"),
        ({"device": "cpu", "precision": "fast"}, "--precision fast: device cpu takes auto or fp32"),
        ({"device": "simulated", "precision": "accurate"}, "--precision accurate: device simulated takes auto"),
    ],
    ids=str,
)
def test_a_mistake_is_told_before_anything_starts(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        classify(**{"data": "/d", "out": "/o", **given})
    assert told in str(refused.value)


def test_python_is_told_of_each_setting_and_of_a_keyword_that_is_misspelt_or_missing() -> None:
    options = ImagenetSettings.options()
    assert set(inspect.signature(classify).parameters) == set(options)
    assert all(f"    {name}: {option.help}\n" in f"{classify.__doc__}\n" for name, (_, option) in options.items())
    assert inspect.signature(classify).return_annotation is Result
    unknown, missing = "got an unexpected keyword argument 'lable'", "missing a required argument: 'data'"
    cases: list[tuple[dict[str, Any], str]] = [({"data": "/d", "lable": "x"}, unknown), ({}, missing)]
    for given, told in cases:
        with pytest.raises(TypeError, match=f"^{told}$"):
            classify(out="/o", **given)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], "--data URI and --out URI missing; see python -m jobs.imagenet --help"),
        (["--data"], "--data: expected one argument; see python -m jobs.imagenet --help"),
        (["--dtaa", "/d", "--out", "/o"], "--dtaa: no such option; did you mean --data?"),
        (["--data=/d", "--out=/o", "--over"], "--over: no such option; did you mean --overwrite?"),
        (["--data=/d", "--out=/o", "--colour=3"], "--colour: no such option; see python -m jobs.imagenet --help"),
        (["--data", "/d", "more", "--out", "/o"], "more: no such argument; see python -m jobs.imagenet --help"),
        (["--data", "/d", "--out", "/o", "--min-top1", "80%", "90%"], "--min-top1 80% 90%: give a percentage such as 80%"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_words_of_a_command_is_one_line(typed: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ended(lambda: len(parse(typed).out), capsys)
    assert (code, said.count("\n"), said.startswith(f"error: {told}")) == (2, 1, True), said


COMMANDS = ["jobs", "jobs.imagenet", "jobs.synthetic", "jobs.scaling", "jobs.report", "cluster.submit", "cluster.preflight"]


@pytest.mark.parametrize("module", COMMANDS)
def test_each_command_tells_its_version_and_a_misspelt_option_in_a_line(module: str) -> None:
    for option, code, told in (("--version", 0, "loudbox-vit 0.1.0\n"), ("--vresion", 2, "did you mean --version?\n")):
        done = run_module(module, option, "jobs.imagenet")
        assert (done.code, done.output.count("\n")) == (code, 1), done.output
        assert done.output.endswith(told)
    assert module == "jobs" or f"python -m {module} " in str(jobs_main.__doc__)


@pytest.mark.parametrize("script", [path.name for path in sorted((ROOT / "cluster").glob("*.sh"))])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_a_scripts_help_does_nothing_but_say_it(script: str, option: str, tmp_path: Path) -> None:
    """Where nothing that it would need is there."""
    line = ["bash", str(ROOT / "cluster" / script), option]
    done = run_line(*line, cwd=tmp_path, environment={"PATH": "/usr/bin:/bin"})
    assert (done.code, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    assert done.stdout.startswith(f"usage: {script}")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "data-2").mkdir()


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("data", "data"),
        ("data", "data/results"),
        ("data/inner", "data"),
        ("data", "link/results"),
        ("link", "data/x/../results"),
        ("data", "file://{here}/data/results"),
        ("s3://bucket/data", "s3://bucket/data/results"),
        ("s3://bucket/data/", "s3a://bucket/data/results/"),
        ("s3://bucket/a b", "s3://key:secret@bucket/a%20b/results?region=x"),
        ("s3://bucket", "s3://bucket/results"),
        ("/", "data"),
    ],
)
@pytest.mark.parametrize("options", [("--data", "--out"), ("--out", "--data"), ("--out", "--cache"), ("--model", "--cache")])
def test_places_in_each_other_are_refused_with_both_options(one: str, other: str, options: tuple[str, str]) -> None:
    first, second = (uri.format(here=os.getcwd()) for uri in (one, other))
    told = f"{options[0]} .* and {options[1]} .* are the same directory, or one is inside the other"
    with pytest.raises(UserError, match=told):
        check_apart({options[0]: first, options[1]: second})


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize(
    ("data", "out"),
    [
        ("data", "data-2"),
        ("data", "results"),
        ("s3://bucket/data", "s3://bucket/data-2"),
        ("s3://bucket/data", "s3://other/data"),
        ("data/photo.jpg", "."),
        ("data/*.parquet", "data"),
        ("s3://bucket/data/{000..099}.tar", "s3://bucket/data/results"),
        ("hf://datasets/o/n", "data"),
        (None, "data"),
    ],
)
def test_places_apart_are_fine(data: str | None, out: str) -> None:
    check_apart({"--data": data, "--out": out})
    check_apart({"--data": data, "--model": data})  # what is only read may lie together


@pytest.mark.parametrize(
    ("out", "column"), [("/data/mesh=4/run", "mesh"), ("s3://b/host=a/r", "host"), ("run_id=7", "run_id"), ("/a/day=1/label", "")]
)
def test_an_output_that_readers_take_for_a_column_is_refused(out: str, column: str) -> None:
    refused = pytest.raises(UserError, match=f"for column '{column}' of all rows; choose another")
    with refused if column else nullcontext():
        ImagenetSettings(data="/d", out=out)
