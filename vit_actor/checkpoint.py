"""A Hugging Face ViT checkpoint: a directory or a hub id, checked before anything starts."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import ViTConfig

from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess
from vit_actor.tensors import current_name, misfits

DEFAULT_CHECKPOINT = "google/vit-base-patch16-224"
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Checkpoint:
    """One ViT image classifier on local disk. `name` is what the user typed, `path` the directory that holds it."""

    name: str
    path: Path

    @cached_property
    def config(self) -> ViTConfig:
        return ViTConfig.from_pretrained(self.path)

    @cached_property
    def preprocess(self) -> Preprocess:
        return Preprocess.from_config(json.loads((self.path / "preprocessor_config.json").read_text()))

    @cached_property
    def class_names(self) -> list[str]:
        """Names by class index, from id2label."""
        return [str(self.config.id2label[i]) for i in range(self.config.num_labels)]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the files that decide a prediction; two checkpoints with one digest give the same answers."""
        total = hashlib.sha256()
        for name in FILES:
            with (self.path / name).open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    @cached_property
    def flops(self) -> float:
        """Floating-point operations of one image's forward pass: two per multiply-add of every matrix product."""
        c = self.config
        patches = (c.image_size // c.patch_size) ** 2
        tokens, hidden = patches + 1, c.hidden_size
        block = tokens * (4 * hidden * hidden + 2 * hidden * c.intermediate_size) + 2 * tokens * tokens * hidden
        return 2.0 * (patches * 3 * c.patch_size**2 * hidden + c.num_hidden_layers * block + hidden * c.num_labels)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights as stored, by the names transformers 5 gives them, whichever version wrote the file."""
        return {current_name(name): tensor for name, tensor in load_file(self.path / "model.safetensors").items()}


def load_checkpoint(name: str) -> Checkpoint:
    """Resolve a directory or hub id to a checked Checkpoint; of the weights only names, types and shapes are read.

    Raises UserError when it does not exist, cannot be fetched, is not a ViT classifier, or its files are not
    safetensors, are damaged or do not fit each other.
    """
    checkpoint = Checkpoint(name, _locate(name))
    try:
        _check_files(checkpoint)
        _check_kind(checkpoint)
        _check_configuration(checkpoint)
        _check_weights(checkpoint)
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from None
    return checkpoint


def _check_files(checkpoint: Checkpoint) -> None:
    missing = [file for file in FILES if not (checkpoint.path / file).is_file()]
    if "model.safetensors" in missing and any(any(checkpoint.path.glob(pattern)) for pattern in PICKLES):
        raise UserError("only pickled weights found; convert them to model.safetensors (pickles run code)")
    if missing:
        raise UserError(f"{', '.join(missing)} missing in {checkpoint.path}")


def _check_kind(checkpoint: Checkpoint) -> None:
    try:
        raw = json.loads((checkpoint.path / "config.json").read_text())
    except ValueError as error:
        raise UserError(f"config.json is not JSON ({_line(error)}); fetch it again") from None
    if not isinstance(raw, dict):
        raise UserError("config.json is not a JSON object; fetch it again")
    if raw.get("model_type") != "vit" or "ViTForImageClassification" not in (raw.get("architectures") or []):
        found = ", ".join(raw.get("architectures") or []) or raw.get("model_type") or "nothing it names"
        raise UserError(f"not a ViT image classifier (found {found}); use a ViTForImageClassification")


def _check_configuration(checkpoint: Checkpoint) -> None:
    try:
        config, names = checkpoint.config, checkpoint.class_names
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise _invalid_configuration(_line(error)) from None
    if not names:
        raise _invalid_configuration("id2label names no classes")
    if config.num_attention_heads < 1 or config.hidden_size % config.num_attention_heads:
        raise _invalid_configuration(f"hidden_size {config.hidden_size} over {config.num_attention_heads} attention heads")
    if config.hidden_act != "gelu":
        raise _invalid_configuration(f"hidden_act {config.hidden_act!r}, where a ViT has 'gelu'")
    if min(config.patch_size, config.num_hidden_layers, config.intermediate_size) < 1:
        raise _invalid_configuration("patch_size, num_hidden_layers and intermediate_size must be at least 1")
    try:
        preprocess = checkpoint.preprocess
    except ValueError as error:
        raise UserError(f"preprocessor_config.json is not JSON ({_line(error)}); fetch it again") from None
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if preprocess.shape != (height, width, config.num_channels):
        given, wanted = "x".join(map(str, preprocess.shape)), f"{height}x{width}x{config.num_channels}"
        raise UserError(f"preprocessor_config.json makes {given} pixels but config.json wants {wanted}; they must agree")


def _check_weights(checkpoint: Checkpoint) -> None:
    try:
        with safe_open(checkpoint.path / "model.safetensors", framework="pt") as file:
            stored = {current_name(key): file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            shapes = {key: tuple(tensor.get_shape()) for key, tensor in stored.items()}
            types = {tensor.get_dtype() for tensor in stored.values()}
    except SafetensorError as error:
        raise UserError(f"model.safetensors is damaged ({_line(error)}); fetch it again") from None
    faults = misfits(shapes, checkpoint.config)
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"model.safetensors does not fit config.json: {'; '.join(faults[:3])}{more}")
    if not types <= FLOATS:
        raise UserError(
            f"model.safetensors holds {', '.join(sorted(types - FLOATS))}; use weights of {', '.join(sorted(FLOATS))}"
        )


def _invalid_configuration(reason: str) -> UserError:
    return UserError(f"config.json is not a valid ViT configuration ({reason}); restore the checkpoint's own file")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _locate(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name).resolve()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"checkpoint {name}: no such directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), token=os.environ.get("HF_TOKEN")))
    except GatedRepoError:
        raise UserError(f"checkpoint {name}: gated; accept its terms on huggingface.co and set HF_TOKEN") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"checkpoint {name}: neither a directory nor a repository on huggingface.co (a private one needs HF_TOKEN)"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint {name}: neither a directory nor reachable on huggingface.co ({reason}); "
            "pass --model with a directory that holds " + ", ".join(FILES)
        ) from None
