"""What several tests of the jobs look at: the bundled sample's run, one like it with other answers, and four meshes."""

import shutil
from collections.abc import Callable, Iterator
from itertools import batched
from pathlib import Path

import pytest

from jobs.running.command import run
from tests.commands import ROOT, Finished, run_module
from tests.conftest import RayCluster, ray_head

SAMPLE = ROOT / "jobs" / "sample" / "images"
MODEL = ROOT / "jobs" / "sample" / "model"


def job(module: str, cluster: RayCluster, *arguments: str) -> Finished:
    """A job on the bundled model, to its end."""
    where = ["--address", cluster.address, "--model", str(MODEL)]
    return run_module(f"jobs.{module}", *where, *arguments, environment=cluster.environment)


def ended(main: Callable[[], int], capture: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """The exit code of a command that runs in this process, and what it wrote to standard error."""
    with pytest.raises(SystemExit) as stopped:
        run(main)
    return stopped.value.code, capture.readouterr().err


def mistake(
    main: Callable[[list[str]], int], cluster: RayCluster, out: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> str:
    """The one line that a job says of a mistake in its arguments, with exit code 2 and nothing classified."""
    defaults = ["--model", str(MODEL), "--out", str(out), "--address", cluster.address, "--wait", "1"]
    code, stderr = ended(lambda: main(defaults + arguments), capfd)
    assert code == 2
    assert "Traceback" not in stderr
    [line] = [line for line in stderr.splitlines() if "error:" in line]
    assert not (out / "predictions").exists()
    assert not (out / "report").exists()
    return line


def answers_of_transformers(paths: list[Path]) -> dict[str, int]:
    """What the model answers there: best class by path below SAMPLE."""
    import torch
    from PIL import Image
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    processor = ViTImageProcessorPil.from_pretrained(MODEL)
    model = ViTForImageClassification.from_pretrained(MODEL).eval()
    found: dict[str, int] = {}
    with torch.inference_mode():
        for batch in batched(paths, 64):
            inputs = processor(images=[Image.open(path).convert("RGB") for path in batch], return_tensors="pt")
            best = model(**inputs).logits.argmax(-1).tolist()
            found |= {str(path.relative_to(SAMPLE)): each for path, each in zip(batch, best, strict=True)}
    return found


@pytest.fixture(scope="session")
def sample_run(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """The bundled sample in float32; not to be written to."""
    out = tmp_path_factory.mktemp("sample") / "out"
    done = job("imagenet", ray_cluster, "--data", str(SAMPLE), "--out", str(out), "--precision", "fp32").succeeded()
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
    done = job("imagenet", ray_cluster, "--data", str(data), "--out", str(out), *timing).succeeded()
    return out, done


@pytest.fixture(scope="package")
def mesh_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One host with the boards of four meshes."""
    with ray_head(tmp_path_factory.mktemp("mesh-home"), "--num-cpus=4", '--resources={"TTNPU": 16}') as cluster:
        yield cluster
