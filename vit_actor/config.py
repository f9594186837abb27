"""The sizes of a ViT, read from a checkpoint's config.json as transformers reads it, without importing transformers."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class VitConfig:
    """Names and defaults are those of transformers.ViTConfig (5.23), but image_size and patch_size are (height, width).

    id2label: the class names by index.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    num_channels: int = 3
    qkv_bias: bool = True
    id2label: tuple[str, ...] = ("LABEL_0", "LABEL_1")

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    @property
    def patches(self) -> tuple[int, int]:
        """How many patches an image has, down and across."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.patches[0] * self.patches[1] + 1

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Self:
        """From the parsed config.json; what it leaves out takes its default.

        Raises ValueError, in one line, for what makes no ViT.
        """
        found = {name: given.get(name, default) for name, default in vars(cls()).items()} | {"id2label": _class_names(given)}
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels"):
            _check_count(name, found[name])
        for name in ("image_size", "patch_size"):
            sides = found[name]
            found[name] = tuple(sides) if isinstance(sides, (list, tuple)) and len(sides) == 2 else (sides, sides)
            for side in found[name]:
                _check_count(name, side)
        config = cls(**found)
        if config.hidden_act != "gelu":
            raise ValueError(f"hidden_act {config.hidden_act!r}, where a ViT has 'gelu'")
        if not isinstance(config.layer_norm_eps, (int, float)) or not 0 <= config.layer_norm_eps < 1:
            raise ValueError(f"layer_norm_eps {config.layer_norm_eps!r} is not a small number")
        if not isinstance(config.qkv_bias, bool):
            raise ValueError(f"qkv_bias {config.qkv_bias!r} is neither true nor false")
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(f"hidden_size {config.hidden_size} does not divide into {config.num_attention_heads} heads")
        if not all(config.patches):
            raise ValueError(f"patch_size {config.patch_size} exceeds image_size {config.image_size}")
        return config


MOST = {"num_hidden_layers": 1_000, "num_labels": 1_000_000, "image_size": 16_384}
"""Of what a ViT has; of all else at most a hundred thousand. Memory is taken for what a configuration says."""


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} {value!r} is not a whole number of at least 1")
    if value > (most := MOST.get(name, 100_000)):
        raise ValueError(f"{name} {value:,} is more than {most:,}")


def _class_names(given: dict[str, Any]) -> tuple[str, ...]:
    """By index, from id2label; without one, as transformers makes them up from num_labels."""
    names = given.get("id2label")
    if names is None:
        _check_count("num_labels", count := given.get("num_labels", 2))
        return tuple(f"LABEL_{i}" for i in range(count))
    if isinstance(names, list):  # transformers itself stops at one; what it means is plain
        return tuple(map(str, names))
    try:
        by_index = {int(index): str(name) for index, name in names.items()}
        return tuple(by_index[index] for index in range(len(by_index)))
    except (AttributeError, TypeError, ValueError, KeyError):
        raise ValueError("id2label does not name the classes 0, 1, 2 and so on") from None
