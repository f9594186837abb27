"""The main job reaches a T3000 by itself: Ray's boards, the actor, ttnn's graph and queues, on mock chips with true numbers."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import ViTForImageClassification, ViTImageProcessorPil

from tests.commands import ROOT, run_module
from tests.conftest import ray_head

SAMPLE = ROOT / "jobs" / "sample"
IMAGES = 130  # two full batches and one of two images


def test_auto_takes_the_boards_and_every_answer_is_the_reference(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    arguments = ["--data", str(SAMPLE / "images"), "--model", str(SAMPLE / "model"), "--limit", str(IMAGES)]
    with ray_head(home, "--num-cpus=2", '--resources={"TTNPU": 4}') as cluster:
        done = run_module(
            "tests.mock_t3000.job",
            *arguments,
            "--out",
            str(tmp_path / "out"),
            "--address",
            cluster.address,
            environment=cluster.environment,
        )
    assert done.code == 0, done.output
    assert "T3000" in done.stdout
    rows = pq.read_table(tmp_path / "out" / "predictions").to_pylist()
    assert {row["mesh"].partition("/")[2] for row in rows} == {"0-3"}
    processor = ViTImageProcessorPil.from_pretrained(SAMPLE / "model")
    model = ViTForImageClassification.from_pretrained(SAMPLE / "model").eval()
    paths = sorted((SAMPLE / "images").rglob("*.jpeg"))[:IMAGES]
    with torch.inference_mode():
        inputs = processor(images=[Image.open(path).convert("RGB") for path in paths], return_tensors="pt")
        expected = model(**inputs).logits.argmax(-1).tolist()
    names = [str(path.relative_to(SAMPLE / "images")) for path in paths]
    assert {row["image_id"]: row["prediction"] for row in rows} == dict(zip(names, expected, strict=True))
