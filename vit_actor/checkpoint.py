"""A Hugging Face ViT checkpoint: a directory or a hub id, checked before anything starts."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - with it NumPy knows bfloat16, which safetensors asks for by name
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from vit_actor.config import VitConfig
from vit_actor.errors import UserError
from vit_actor.network import check_network_settings
from vit_actor.preprocess import Preprocess
from vit_actor.tensors import current_name, misfits

DEFAULT_CHECKPOINT = "google/vit-base-patch16-224"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Where the image processor is described: the first that there is. In the second it is the entry `image_processor`."""
INDEX = "model.safetensors.index.json"  # Of weights in several files: which tensor is in which
FILES = (CONFIG, PROCESSORS[0], WEIGHTS)
FETCHED = (CONFIG, *PROCESSORS, INDEX, "model*.safetensors")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOATS = {"F64", "F32", "F16", "BF16"}  # Types that weights may be stored in
MOST_JSON_BYTES = 64 * 2**20  # Of a configuration: that of ImageNet-21k with all its names has one


@dataclass(frozen=True)
class Checkpoint:
    """One ViT image classifier on local disk. `name` is what the user typed, `path` the directory that holds it."""

    name: str
    path: Path

    @cached_property
    def config(self) -> VitConfig:
        return VitConfig.from_json(_read_json(self.path / CONFIG))

    @cached_property
    def processor_file(self) -> str:
        """The name of the file that describes the image processor."""
        return next((name for name in PROCESSORS if (self.path / name).is_file()), PROCESSORS[0])

    @cached_property
    def preprocess(self) -> Preprocess:
        found = _read_json(self.path / self.processor_file)
        return Preprocess.from_config(found.get("image_processor", found))

    @cached_property
    def weights(self) -> tuple[Path, ...]:
        """The files of the weights, by name. Raises UserError for an index that names none."""
        if (self.path / WEIGHTS).is_file() or not (self.path / INDEX).is_file():
            return (self.path / WEIGHTS,)
        named = _read_json(self.path / INDEX).get("weight_map")
        names = set(map(str, named.values())) if isinstance(named, dict) else set()
        if not names or any(Path(name).name != name for name in names):
            raise UserError(f"{INDEX} does not say which tensor is in which file; fetch it again")
        return tuple(self.path / name for name in sorted(names))

    @cached_property
    def class_names(self) -> list[str]:
        return list(self.config.id2label)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the files that decide a prediction; two checkpoints with one digest give the same answers."""
        total = hashlib.sha256()
        for path in (self.path / CONFIG, self.path / self.processor_file, *self.weights):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    @cached_property
    def flops(self) -> float:
        """Floating-point operations of one image's forward pass: two per multiply-add of every matrix product."""
        c = self.config
        tokens, hidden = c.tokens, c.hidden_size
        embedding = (tokens - 1) * c.num_channels * c.patch_size[0] * c.patch_size[1] * hidden
        block = tokens * (4 * hidden * hidden + 2 * hidden * c.intermediate_size) + 2 * tokens * tokens * hidden
        return 2.0 * (embedding + c.num_hidden_layers * block + hidden * c.num_labels)

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights in float32, by the names transformers 5 gives them, whichever version wrote the file."""
        found = (pair for path in self.weights for pair in load_file(path).items())
        return {current_name(name): tensor.astype(np.float32, copy=False) for name, tensor in found}


def load_checkpoint(name: str) -> Checkpoint:
    """Resolve a directory or hub id to a checked Checkpoint, whose weights are read once and not kept.

    Raises UserError when it does not exist, cannot be fetched, is not a ViT classifier, or its files are not
    safetensors, are damaged or do not fit each other.
    """
    checkpoint = Checkpoint(name, _locate(name))
    try:
        if (checkpoint.path / CONFIG).is_file():
            _check_kind(_read_json(checkpoint.path / CONFIG))  # what is another kind of model lacks other files too
        _check_files(checkpoint)
        _check_weights(checkpoint)
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from None
    return checkpoint


def _check_kind(raw: dict[str, Any]) -> None:
    problem, kind, named = (raw.get(key) for key in ("problem_type", "model_type", "architectures"))
    if problem not in (None, "single_label_classification"):
        raise UserError(f"problem_type {problem!r}: its answers are no classes to choose one of; use a single-label classifier")
    if "architecture" in raw and "model_type" not in raw:
        raise UserError(f"a timm checkpoint ({raw['architecture']}); use a ViTForImageClassification that transformers wrote")
    names = [str(name) for name in named] if isinstance(named, list) else []
    if kind != "vit" or "ViTForImageClassification" not in names:
        found = ", ".join(names) or kind or "nothing it names"
        second = ", a DeiT, which has a second token" if kind == "deit" else ""
        raise UserError(f"not a ViT image classifier (found {found}{second}); use a ViTForImageClassification")


def _check_files(checkpoint: Checkpoint) -> None:
    needed = (checkpoint.path / CONFIG, checkpoint.path / checkpoint.processor_file, *checkpoint.weights)
    missing = [path.name for path in needed if not path.is_file()]
    if WEIGHTS in missing and any(any(checkpoint.path.glob(pattern)) for pattern in PICKLES):
        raise UserError("only pickled weights found; convert them to model.safetensors (pickles run code)")
    if missing:
        raise UserError(f"{', '.join(missing)} missing in {checkpoint.path}")
    try:
        config = checkpoint.config
    except ValueError as error:
        raise UserError(f"config.json is not a valid ViT configuration ({error}); restore the checkpoint's own file") from None
    if config.num_labels < 2:
        raise UserError(
            "config.json names fewer than two classes, so that all answers would be the same; use a checkpoint with more"
        )
    makes, wants = (
        "x".join(map(str, sides)) for sides in (checkpoint.preprocess.shape, (*config.image_size, config.num_channels))
    )
    if makes != wants:
        raise UserError(f"preprocessor_config.json makes {makes} pixels but config.json wants {wants}; they must agree")


def _check_weights(checkpoint: Checkpoint) -> None:
    shapes, types, broken = dict[str, tuple[int, ...]](), set[str](), list[str]()
    for path in checkpoint.weights:
        try:
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(name)
                    shapes[current_name(name)] = tuple(part.get_shape())
                    types.add(part.get_dtype())
                    if part.get_dtype() in FLOATS and not np.isfinite(file.get_tensor(name)).all():
                        broken.append(name)
        except SafetensorError as error:
            raise UserError(f"{path.name} is damaged ({_line(error)}); fetch it again") from None
    if faults := misfits(shapes, checkpoint.config):
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"model.safetensors does not fit config.json: {'; '.join(faults[:3])}{more}")
    if others := sorted(types - FLOATS):
        raise UserError(f"model.safetensors holds {', '.join(others)}; use weights of {', '.join(sorted(FLOATS))}")
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise UserError(f"model.safetensors holds numbers that are not finite in {broken[0]}{more}; use a sound checkpoint")


def _read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds; raises UserError for anything else."""
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise UserError(f"{path.name} has {path.stat().st_size:,} bytes, more than {MOST_JSON_BYTES:,}; fetch it again")
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not JSON ({_line(error)}); fetch it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path.name} is not a JSON object; fetch it again")
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def hub_token() -> str | None:
    """HF_TOKEN without what surrounds it; None for an empty one. Raises UserError for one that no hub can have given.

    Also as check_network_settings does.
    """
    check_network_settings()
    token = "".join(os.environ.get("HF_TOKEN", "").split())
    if not token.isascii() or not token.isprintable():
        raise UserError("HF_TOKEN holds characters that no token has; copy it again from https://huggingface.co/settings/tokens")
    return token or None


def _locate(name: str) -> Path:
    if (directory := Path(os.path.expanduser(name))).is_dir():
        return directory.resolve()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"checkpoint {name}: no such directory")
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FETCHED), token=hub_token()))
    except errors.GatedRepoError:
        raise UserError(f"checkpoint {name}: gated; accept its terms on huggingface.co and set HF_TOKEN") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise UserError(
            f"checkpoint {name}: neither a directory nor a repository on huggingface.co (a private one needs HF_TOKEN)"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint {name}: neither a directory nor reachable on huggingface.co ({reason}); "
            f"pass --model with a directory that holds {', '.join(FILES)}"
        ) from None
