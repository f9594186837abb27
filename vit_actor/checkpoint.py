"""A Hugging Face ViT checkpoint: a directory or a hub id, checked before anything starts."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import ViTConfig

from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

DEFAULT_CHECKPOINT = "google/vit-base-patch16-224"
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


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
        """The weights as stored, by the names they are stored under."""
        return load_file(self.path / "model.safetensors")


def load_checkpoint(name: str) -> Checkpoint:
    """Resolve a directory or hub id to a checked Checkpoint.

    Raises UserError when it does not exist, cannot be fetched, is not a ViT classifier, or is not safetensors.
    """
    checkpoint = Checkpoint(name, _locate(name))
    missing = [file for file in FILES if not (checkpoint.path / file).is_file()]
    if "model.safetensors" in missing and any((checkpoint.path / old).exists() for old in ("pytorch_model.bin", "model.pt")):
        raise UserError(f"checkpoint {name}: only pickled weights found; convert them to model.safetensors (pickles run code)")
    if missing:
        raise UserError(f"checkpoint {name}: {', '.join(missing)} missing in {checkpoint.path}")
    try:
        raw = json.loads((checkpoint.path / "config.json").read_text())
        checkpoint.preprocess  # noqa: B018 - parsed here so that a bad file is reported now
    except (ValueError, TypeError) as error:
        raise UserError(f"checkpoint {name}: not valid JSON configuration ({error})") from None
    if raw.get("model_type") != "vit" or "ViTForImageClassification" not in (raw.get("architectures") or []):
        found = raw.get("architectures") or raw.get("model_type") or "nothing it names"
        raise UserError(f"checkpoint {name}: not a ViT image classifier (found {found}); use a ViTForImageClassification")
    try:
        checkpoint.tensors()
    except SafetensorError as error:
        raise UserError(f"checkpoint {name}: model.safetensors is damaged ({error}); fetch it again") from None
    return checkpoint


def _locate(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name).resolve()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"checkpoint {name}: no such directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), token=os.environ.get("HF_TOKEN")))
    except GatedRepoError:
        raise UserError(f"checkpoint {name}: gated; accept its terms on huggingface.co and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise UserError(f"checkpoint {name}: neither a directory nor a repository on huggingface.co") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint {name}: neither a directory nor reachable on huggingface.co ({reason}); "
            "pass --model with a directory that holds " + ", ".join(FILES)
        ) from None
