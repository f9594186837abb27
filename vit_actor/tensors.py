"""What the tensors of a ViT checkpoint are called and how large they are, whichever transformers version wrote them."""

import re
from collections.abc import Mapping

from vit_actor.config import VitConfig

RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
"""What files on the hub call the parts of an encoder block -> what models in transformers 5 do."""


def current_name(name: str) -> str:
    """transformers up to 4 and on the hub -> transformers 5; names that did not change stay."""
    if not (block := re.fullmatch(r"vit\.encoder\.layer\.(\d+)\.(.+)\.(\w+)", name)):
        return name
    index, part, kind = block.groups()
    return f"vit.layers.{index}.{RENAMED.get(part, part)}.{kind}"


def expected_shapes(config: VitConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that a configuration calls for, by its transformers 5 name."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    block: dict[str, tuple[int, ...]] = {f"attention.{part}_proj": (hidden, hidden) for part in "qkvo"}
    block |= {"layernorm_before": (hidden,), "layernorm_after": (hidden,), "mlp.fc1": (mlp, hidden), "mlp.fc2": (hidden, mlp)}
    parts = {
        "vit.embeddings.patch_embeddings.projection": (hidden, config.num_channels, *config.patch_size),
        **{f"vit.layers.{index}.{name}": shape for index in range(config.num_hidden_layers) for name, shape in block.items()},
        "vit.layernorm": (hidden,),
        "classifier": (config.num_labels, hidden),
    }
    biased = [name for name in parts if config.qkv_bias or not name.endswith(("q_proj", "k_proj", "v_proj"))]
    return {
        "vit.embeddings.cls_token": (1, 1, hidden),
        "vit.embeddings.position_embeddings": (1, config.tokens, hidden),
        **{f"{name}.weight": shape for name, shape in parts.items()},
        **{f"{name}.bias": parts[name][:1] for name in biased},
    }


def misfits(found: Mapping[str, tuple[int, ...]], config: VitConfig) -> list[str]:
    """What is wrong with tensors of these current names and shapes, one text a tensor; empty when they fit.

    A pooler is no fault: checkpoints pretrained with one keep it, and the classifier does not look at it.
    """
    expected = expected_shapes(config)
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is unexpected" for name in found if name not in expected and not name.startswith("vit.pooler.")]
    return faults + [
        f"{name} is {found[name]} and should be {shape}" for name, shape in expected.items() if found.get(name, shape) != shape
    ]
