"""What several tests of the jobs look at: the bundled sample's run, one like it with other answers, and four meshes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.running.command import run
from tests.commands import ROOT, Finished, run_module
from tests.conftest import RayCluster, ray_head

SAMPLE = ROOT / "jobs" / "sample" / "images"
MODEL = ROOT / "jobs" / "sample" / "model"


def imagenet(cluster: RayCluster, *arguments: str) -> Finished:
    return run_module(
        "jobs.imagenet", "--address", cluster.address, "--model", str(MODEL), *arguments, environment=cluster.environment
    )


def mistake(
    main: Callable[[list[str]], int], cluster: RayCluster, out: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> str:
    """The one line that a job says of a mistake in its arguments, with exit code 2 and nothing classified."""
    defaults = ["--model", str(MODEL), "--out", str(out), "--address", cluster.address, "--wait", "1"]
    with pytest.raises(SystemExit) as stopped:
        run(lambda: main(defaults + arguments))
    assert stopped.value.code == 2
    stderr = capfd.readouterr().err
    assert "Traceback" not in stderr
    [line] = [line for line in stderr.splitlines() if "error:" in line]
    assert not (out / "predictions").exists()
    assert not (out / "report").exists()
    return line


@pytest.fixture(scope="session")
def sample_run(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """The bundled sample in float32; not to be written to."""
    out = tmp_path_factory.mktemp("sample") / "out"
    done = imagenet(ray_cluster, "--data", str(SAMPLE), "--out", str(out), "--precision", "fp32")
    assert done.code == 0, done.output
    return out, done


@pytest.fixture(scope="session")
def simulated_run(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """The sample and three files that are no images, with a simulated device's answers; not to be written to."""
    data = tmp_path_factory.mktemp("simulated") / "data"
    shutil.copytree(SAMPLE, data)
    (data / "7" / "empty.jpeg").write_bytes(b"")
    (data / "7" / "text.jpeg").write_text("not an image")
    (data / "8" / "empty.jpeg").write_bytes(b"")
    out = data.parent / "out"
    timing = ["--device", "simulated", "--simulate", "compute=5ms"]
    done = imagenet(ray_cluster, "--data", str(data), "--out", str(out), *timing)
    assert done.code == 0, done.output
    return out, done


@pytest.fixture(scope="package")
def mesh_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One host with the boards of four meshes."""
    with ray_head(tmp_path_factory.mktemp("mesh-home"), "--num-cpus=4", '--resources={"TTNPU": 16}') as cluster:
        yield cluster
