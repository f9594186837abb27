"""A checkpoint is either whole and fitting, or refused in one line before anything starts."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification

from vit_actor.checkpoint import FILES, load_checkpoint
from vit_actor.errors import UserError

SAMPLE = Path(__file__).parents[2] / "jobs" / "sample" / "model"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the sample checkpoint to damage."""
    return Path(shutil.copytree(SAMPLE, tmp_path / "model"))


def _configure(model: Path, file: str, **changes: object) -> None:
    path = model / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _rewrite(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


def _refusal(name: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(str(name))
    line = str(caught.value)
    assert "\n" not in line
    assert str(name) in line
    return line


def test_the_sample_is_accepted_with_its_classes_and_input_size() -> None:
    checkpoint = load_checkpoint(str(SAMPLE))
    assert checkpoint.class_names == [str(digit) for digit in range(10)]
    assert checkpoint.preprocess.shape == (64, 64, 3)
    assert checkpoint.config.num_hidden_layers == 4


def test_tensors_have_the_names_values_and_shapes_of_the_loaded_model() -> None:
    expected = ViTForImageClassification.from_pretrained(SAMPLE).state_dict()
    tensors = load_checkpoint(str(SAMPLE)).tensors()
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)


def test_files_with_transformers_5_names_give_the_same_tensors(tmp_path: Path, model: Path) -> None:
    reference = ViTForImageClassification.from_pretrained(SAMPLE)
    reference.save_pretrained(model, save_original_format=False)
    assert "vit.layers.0.mlp.fc1.weight" in load_file(model / "model.safetensors")
    old, new = load_checkpoint(str(SAMPLE)), load_checkpoint(str(model))
    assert old.tensors().keys() == new.tensors().keys()
    assert all(np.array_equal(tensor, new.tensors()[name]) for name, tensor in old.tensors().items())


def test_tensors_a_classifier_does_not_use_are_no_fault(model: Path) -> None:
    _rewrite(model, lambda tensors: tensors.update({"vit.pooler.dense.weight": torch.zeros(64, 64)}))
    assert load_checkpoint(str(model)).tensors()["vit.pooler.dense.weight"].shape == (64, 64)


@pytest.mark.parametrize("file", FILES)
def test_the_digest_changes_with_every_file_that_decides_a_prediction(model: Path, file: str) -> None:
    before = load_checkpoint(str(model)).digest
    assert before == load_checkpoint(str(SAMPLE)).digest
    if file == "model.safetensors":
        _rewrite(model, lambda tensors: tensors["classifier.bias"].add_(1))
    else:
        (model / file).write_text((model / file).read_text() + "\n")
    assert load_checkpoint(str(model)).digest != before


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(model: Path, file: str) -> None:
    (model / file).unlink()
    assert f"{file} missing" in _refusal(model)


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickled_weights_are_refused_unread(model: Path, pickle: str) -> None:
    (model / "model.safetensors").unlink()
    (model / pickle).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "pickled weights" in _refusal(model)


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"\xff" * 64 + whole, lambda whole: whole[:-1]],
    ids=["half", "empty", "garbage first", "last byte lost"],
)
def test_damaged_weights_are_named(model: Path, damage: Callable[[bytes], bytes]) -> None:
    path = model / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert "model.safetensors is damaged" in _refusal(model)


def test_missing_tensors_are_named_and_counted_beyond_three(model: Path) -> None:
    _rewrite(model, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layer.2." in name])
    line = _refusal(model)
    assert "vit.layers.2.attention.q_proj.weight is missing" in line
    assert "and 13 more" in line


def test_tensors_of_another_shape_are_named_with_both_shapes(model: Path) -> None:
    _rewrite(model, lambda tensors: tensors.update({"classifier.weight": torch.zeros(7, 64)}))
    assert "classifier.weight is (7, 64) and should be (10, 64)" in _refusal(model)


@pytest.mark.parametrize("harm", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_that_is_no_number_is_refused_by_its_tensors_name(model: Path, kind: torch.dtype, harm: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(kind)
        tensors["classifier.weight"][3, 5] = harm

    assert load_checkpoint(str(model))
    _rewrite(model, change)
    assert "classifier.weight holds numbers that are not finite" in _refusal(model)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_largest_and_smallest_numbers_are_finite(model: Path, kind: torch.dtype) -> None:
    limits = torch.finfo(kind)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(kind)
        tensors["classifier.bias"][:4] = torch.tensor([limits.max, limits.min, limits.tiny, 0.0], dtype=kind)

    _rewrite(model, change)
    assert load_checkpoint(str(model))


def _split_weights(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, model / file, {"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (model / "model.safetensors").unlink()


def test_weights_in_several_files_are_the_same_weights(tmp_path: Path, model: Path) -> None:
    expected = load_checkpoint(str(model)).tensors()
    _split_weights(model)
    checkpoint = load_checkpoint(str(model))
    found = checkpoint.tensors()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    digest = checkpoint.digest
    second = model / "model-00002-of-00002.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(second).items()}, second, {"format": "pt"})
    assert load_checkpoint(str(model)).digest != digest
    second.unlink()
    assert "model-00002-of-00002.safetensors missing" in _refusal(model)


@pytest.mark.parametrize(
    "index", ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": 5}', "[" * 200_000]
)
def test_an_index_of_weights_that_is_none_is_refused(model: Path, index: str) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in _refusal(model)


def test_a_processor_described_in_processor_config_is_read(model: Path) -> None:
    found = json.loads((model / "preprocessor_config.json").read_text())
    expected = load_checkpoint(str(model)).preprocess
    (model / "preprocessor_config.json").unlink()
    (model / "processor_config.json").write_text(json.dumps({"image_processor": found, "processor_class": "X"}))
    assert load_checkpoint(str(model)).preprocess == expected


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architecture": "vit_base_patch16_224", "num_classes": 1000}, "a timm checkpoint"),
        ({"model_type": "deit", "architectures": ["DeiTForImageClassification"]}, "a DeiT"),
        ({"model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"]}, "a DeiT"),
        ({"model_type": "swin", "architectures": ["SwinForImageClassification"]}, "found SwinForImageClassification"),
        ({"model_type": "vit", "architectures": 5}, "not a ViT image classifier"),
        ({"model_type": "vit", "architectures": [5]}, "not a ViT image classifier"),
    ],
)
def test_another_kind_of_model_is_refused_for_its_kind_and_not_for_a_missing_file(
    tmp_path: Path, config: dict[str, object], says: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert says in _refusal(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_json_that_is_nested_without_end_is_refused(model: Path, file: str) -> None:
    (model / file).write_text("[" * 200_000)
    assert file in _refusal(model)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression", 5])
def test_another_problem_than_one_class_an_image_is_refused_by_name(model: Path, problem: object) -> None:
    _configure(model, "config.json", problem_type=problem)
    assert f"problem_type {problem!r}" in _refusal(model)


def test_single_label_classification_is_what_is_run(model: Path) -> None:
    _configure(model, "config.json", problem_type="single_label_classification")
    assert load_checkpoint(str(model))


def test_quantised_weights_are_refused(model: Path) -> None:
    _rewrite(model, lambda tensors: tensors.update({"classifier.weight": torch.zeros(10, 64, dtype=torch.int8)}))
    assert "holds I8" in _refusal(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]},
        {"architectures": ["ViTModel"]},
        {"architectures": None},
        {"model_type": "deit"},
    ],
    ids=["another family", "no classifier", "unsaid", "another type"],
)
def test_a_checkpoint_that_is_no_vit_classifier_is_refused(model: Path, changes: dict[str, object]) -> None:
    _configure(model, "config.json", **changes)
    assert "not a ViT image classifier" in _refusal(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"image_size": None},
        {"id2label": {"zero": "0"}},
        {"id2label": {"0": "zero", "5": "five"}},
        {"id2label": {}},
        {"hidden_act": "nonsense"},
        {"num_attention_heads": 3},
        {"num_attention_heads": 0},
        {"patch_size": 0},
    ],
    ids=lambda changes: json.dumps(changes),
)
def test_a_configuration_that_makes_no_sense_is_refused(model: Path, changes: dict[str, object]) -> None:
    _configure(model, "config.json", **changes)
    assert "config.json is not a valid ViT configuration" in _refusal(model)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["{", "[1, 2]", ""])
def test_configuration_that_is_not_a_json_object_names_its_file(model: Path, file: str, text: str) -> None:
    (model / file).write_text(text)
    assert f"{file}" in _refusal(model)


def test_a_processor_that_makes_another_size_than_the_model_takes_is_refused(model: Path) -> None:
    _configure(model, "preprocessor_config.json", size={"height": 224, "width": 224})
    assert "makes 224x224x3 pixels but config.json wants 64x64x3" in _refusal(model)


def test_a_greyscale_model_is_refused(model: Path) -> None:
    _configure(model, "config.json", num_channels=1)
    assert "wants 64x64x1" in _refusal(model)


def test_an_unsupported_processor_is_named_with_the_checkpoint(model: Path) -> None:
    _configure(model, "preprocessor_config.json", image_processor_type="CLIPImageProcessor")
    assert "CLIPImageProcessor" in _refusal(model)


@pytest.mark.parametrize("name", ["./no/such", "/no/such", "~/no-such", "no/such/directory"])
def test_a_path_that_does_not_exist_is_refused_without_asking_the_hub(name: str) -> None:
    assert "no such directory" in _refusal(name)


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answers every request as huggingface.co answers for a gated or an unknown repository."""

    def do_GET(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing", "not a name"])
def test_an_unknown_name_is_neither_directory_nor_repository(hub: None, name: str) -> None:
    assert "neither a directory nor a repository" in _refusal(name)


def test_a_gated_repository_says_what_to_do(hub: None) -> None:
    assert "accept its terms" in _refusal("some/gated-model")


def test_an_unreachable_hub_says_what_a_directory_must_hold(hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    line = _refusal("google/vit-base-patch16-224")
    assert "nor reachable" in line
    assert all(file in line for file in FILES)
