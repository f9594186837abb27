"""A checkpoint is either whole and fitting, or refused in one line before anything starts."""

import http.server
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification

from tests.commands import ROOT
from vit_actor.checkpoint import FILES, Checkpoint, load_checkpoint
from vit_actor.errors import UserError

SAMPLE = ROOT / "jobs" / "sample" / "model"
CONFIG, PROCESSOR, WEIGHTS = FILES
INDEX = "model.safetensors.index.json"

Change = Callable[[Path], object]  # Of a checkpoint's directory


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the sample checkpoint to change."""
    return Path(shutil.copytree(SAMPLE, tmp_path / "model"))


def configured(file: str = CONFIG, **changes: object) -> Change:
    return lambda model: (model / file).write_text(json.dumps(json.loads((model / file).read_text()) | changes))


def written(text: str, file: str = CONFIG) -> Change:
    return lambda model: (model / file).write_text(text)


def removed(file: str) -> Change:
    return lambda model: (model / file).unlink()


def cut(damage: Callable[[bytes], bytes]) -> Change:
    return lambda model: (model / WEIGHTS).write_bytes(damage((model / WEIGHTS).read_bytes()))


def instead_of_weights(text: str, file: str) -> Change:
    return lambda model: (model / WEIGHTS).rename(model / file).write_text(text)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def rewrite(model: Path) -> None:
        found = load_file(model / WEIGHTS)
        change(found)
        save_file(found, model / WEIGHTS, {"format": "pt"})

    return rewrite


def refusal(name: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(str(name))
    line = str(caught.value)
    assert "\n" not in line
    assert str(name) in line
    return line


def assert_the_samples_tensors(checkpoint: Checkpoint) -> None:
    """Those of the model as transformers loads it."""
    expected, found = ViTForImageClassification.from_pretrained(SAMPLE).state_dict(), checkpoint.tensors()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items())


def test_the_sample_is_read_as_transformers_reads_it_whichever_version_named_its_tensors(model: Path) -> None:
    checkpoint = load_checkpoint(str(SAMPLE))
    assert_the_samples_tensors(checkpoint)
    assert checkpoint.class_names == [str(digit) for digit in range(10)]
    assert (checkpoint.preprocess.shape, checkpoint.config.num_hidden_layers) == ((64, 64, 3), 4)
    ViTForImageClassification.from_pretrained(SAMPLE).save_pretrained(model, save_original_format=False)
    assert "vit.layers.0.mlp.fc1.weight" in load_file(model / WEIGHTS)
    assert_the_samples_tensors(load_checkpoint(str(model)))


def test_what_a_classifier_does_not_use_is_no_fault(model: Path) -> None:
    tensors(lambda found: found.update({"vit.pooler.dense.weight": torch.zeros(64, 64)}))(model)
    configured(problem_type="single_label_classification")(model)
    assert load_checkpoint(str(model)).tensors()["vit.pooler.dense.weight"].shape == (64, 64)


def test_one_image_of_base_takes_two_operations_per_multiply_add() -> None:
    """17.56 GMAC, as published for ViT-Base/16 at 224 (timm), less the pooler that a classifier does not have."""
    flops = Checkpoint("base", Path("/nowhere"))
    flops.__dict__["config"] = load_checkpoint(str(SAMPLE)).config.from_json({"num_labels": 1000})
    assert flops.flops == pytest.approx(2 * 17.56e9, rel=0.002)


@pytest.mark.parametrize("file", FILES)
def test_the_digest_changes_with_every_file_that_decides_a_prediction(model: Path, file: str) -> None:
    before = load_checkpoint(str(model)).digest
    assert before == load_checkpoint(str(SAMPLE)).digest
    if file == WEIGHTS:
        tensors(lambda found: found["classifier.bias"].add_(1))(model)
    else:
        (model / file).write_text((model / file).read_text() + "\n")
    assert load_checkpoint(str(model)).digest != before


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("harm", [None, float("nan"), float("inf"), -float("inf")])
def test_weights_may_be_of_any_float_and_hold_any_finite_number(model: Path, kind: torch.dtype, harm: float | None) -> None:
    limits = torch.finfo(kind)

    def change(found: dict[str, torch.Tensor]) -> None:
        found |= {name: tensor.to(kind) for name, tensor in found.items()}
        found["classifier.bias"][:4] = torch.tensor([limits.max, limits.min, limits.tiny, 0.0], dtype=kind)
        if harm is not None:
            found["classifier.weight"][3, 5] = harm

    tensors(change)(model)
    if harm is None:
        assert load_checkpoint(str(model))
    else:
        assert "holds numbers that are not finite in classifier.weight; " in refusal(model)


def test_weights_in_several_files_are_the_same_weights(model: Path) -> None:
    found = load_file(model / WEIGHTS)
    names, parts = sorted(found), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for number, file in enumerate(parts):
        save_file({name: found[name] for name in names[number::2]}, model / file, {"format": "pt"})
    weight_map = {name: parts[number % 2] for number, name in enumerate(names)}
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (model / WEIGHTS).unlink()

    checkpoint, second = load_checkpoint(str(model)), model / parts[1]
    assert_the_samples_tensors(checkpoint)
    digest = checkpoint.digest
    save_file({name: tensor + 1 for name, tensor in load_file(second).items()}, second, {"format": "pt"})
    assert load_checkpoint(str(model)).digest != digest
    second.unlink()
    assert f"{second.name} missing" in refusal(model)


def test_a_processor_described_in_processor_config_is_read(model: Path) -> None:
    found = json.loads((model / PROCESSOR).read_text())
    (model / PROCESSOR).rename(model / "processor_config.json").write_text(json.dumps({"image_processor": found}))
    assert load_checkpoint(str(model)).preprocess == load_checkpoint(str(SAMPLE)).preprocess


ENDLESS = "[" * 200_000
PICKLE = "cos\nsystem\n(S'false'\ntR."
INDEXES = "[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": 5}', ENDLESS
REFUSED: dict[str, tuple[Change, str]] = {
    **{f"no {file}": (removed(file), f"{file} missing") for file in FILES},
    **{
        file: (instead_of_weights(PICKLE, file), "only pickled weights found")
        for file in ("pytorch_model.bin", "model.pt", "weights.ckpt")
    },
    "half the weights": (cut(lambda whole: whole[: len(whole) // 2]), f"{WEIGHTS} is damaged"),
    "empty weights": (cut(lambda whole: b""), f"{WEIGHTS} is damaged"),
    "garbage first": (cut(lambda whole: b"\xff" * 64 + whole), f"{WEIGHTS} is damaged"),
    "last byte lost": (cut(lambda whole: whole[:-1]), f"{WEIGHTS} is damaged"),
    "no layer 2": (
        tensors(lambda found: [found.pop(name) for name in list(found) if "layer.2." in name]),
        "fit config.json: vit.layers.2.attention.q_proj.weight is missing; vit.layers.2.attention.k_proj.weight is missing; "
        "vit.layers.2.attention.v_proj.weight is missing; and 13 more",
    ),
    "another shape": (
        tensors(lambda found: found.update({"classifier.weight": torch.zeros(7, 64)})),
        "classifier.weight is (7, 64) and should be (10, 64)",
    ),
    "one more": (tensors(lambda found: found.update(x=torch.zeros(4))), "x is unexpected"),
    "quantised": (
        tensors(lambda found: found.update({"classifier.bias": torch.zeros(10, dtype=torch.int8)})),
        "holds I8; use weights of BF16, F16, F32, F64",
    ),
    "two not finite": (
        tensors(lambda found: [found[f"classifier.{part}"].fill_(float("nan")) for part in ("weight", "bias")]),
        "not finite in classifier.bias and 1 more; ",
    ),
    **{f"index {text[:40]}": (instead_of_weights(text, INDEX), INDEX) for text in INDEXES},
    **{
        f"{file} {text[:9]!r}": (written(text, file), f"{file} is not")
        for file in (CONFIG, PROCESSOR)
        for text in ("{", "[1, 2]", "", ENDLESS)
    },
    **{
        f"problem type {problem}": (configured(problem_type=problem), f"problem_type {problem!r}")
        for problem in ("multi_label_classification", "regression", 5)
    },
    "no configuration": (configured(hidden_size="wide"), "config.json is not a valid ViT configuration (hidden_size 'wide' is"),
    "a single class": (configured(id2label={"0": "cat"}), "names fewer than two classes"),
    "another size": (configured(PROCESSOR, size=[224, 224]), "makes 224x224x3 pixels but config.json wants 64x64x3"),
    "greyscale": (configured(num_channels=1), "wants 64x64x1"),
    "another processor": (configured(PROCESSOR, image_processor_type="CLIPImageProcessor"), "CLIPImageProcessor"),
    "timm's": (written('{"architecture": "vit_base_patch16_224", "num_classes": 1000}'), "a timm checkpoint"),
    "a DeiT": (written('{"model_type": "deit"}'), "found deit, a DeiT, which has a second token"),
    "a ResNet": (
        written('{"model_type": "resnet", "architectures": ["ViTForImageClassification"]}'),
        "not a ViT image classifier",
    ),
    "no classifier": (written('{"model_type": "vit", "architectures": ["ViTModel"]}'), "found ViTModel"),
    "no kind": (written('{"model_type": "vit", "architectures": null}'), "found vit"),
    "no names": (written('{"model_type": "vit", "architectures": 5}'), "not a ViT image classifier"),
    "no name": (written('{"model_type": "vit", "architectures": [5]}'), "not a ViT image classifier"),
    "nothing": (written("{}"), "found nothing it names"),
}


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_a_checkpoint_is_named_in_one_line(model: Path, change: Change, says: str) -> None:
    change(model)
    assert says in refusal(model)


def test_another_kind_of_model_is_refused_for_its_kind_before_all_else(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text('{"model_type": "swin", "architectures": ["SwinForImageClassification"]}')
    assert "found SwinForImageClassification" in refusal(tmp_path)


def test_a_path_that_does_not_exist_is_refused_without_asking_the_hub() -> None:
    for name in ("./no/such", "/no/such", "~/no-such", "no/such/directory"):
        assert "no such directory" in refusal(name)


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answers every request as huggingface.co answers for a gated or an unknown repository."""

    def do_GET(self) -> None:
        gated = "gated" in self.path
        self.send_response_only(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET


def test_a_name_that_the_hub_does_not_give_out_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        for name in ("nobody/nothing", "nothing", "not a name"):
            assert "neither a directory nor a repository" in refusal(name)
        assert "accept its terms" in refusal("some/gated-model")
        server.shutdown()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    line = refusal("google/vit-base-patch16-224")
    assert all(part in line for part in ("nor reachable", *FILES))
