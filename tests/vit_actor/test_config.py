"""A checkpoint's sizes are what transformers would read from the same config.json."""

import pytest
from transformers import ViTConfig

from vit_actor.config import VitConfig

SHARED = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("layer_norm_eps", "num_channels", "qkv_bias", "num_labels"),
)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 2, "qkv_bias": False},
        {"image_size": 384, "patch_size": 32, "layer_norm_eps": 1e-6, "id2label": {"0": "cat", "1": "dog", "2": "crane"}},
        {"num_labels": 7, "attention_probs_dropout_prob": 0.1, "encoder_stride": 16, "something_new": [1, 2]},
    ],
    ids=str,
)
def test_every_size_is_transformers_own(given: dict[str, object]) -> None:
    ours, theirs = VitConfig.from_json(given), ViTConfig(**given)
    assert {name: getattr(ours, name) for name in SHARED} == {name: getattr(theirs, name) for name in SHARED}
    assert ours.image_size == (theirs.image_size, theirs.image_size)
    assert ours.patch_size == (theirs.patch_size, theirs.patch_size)
    assert list(ours.id2label) == [theirs.id2label[i] for i in range(theirs.num_labels)]


def test_sides_may_be_a_pair_and_need_not_be_equal_and_class_names_may_be_a_list() -> None:
    config = VitConfig.from_json({"image_size": [224, 160], "patch_size": [16, 8], "id2label": ["cat", "dog"]})
    assert (config.patches, config.tokens, config.id2label) == ((14, 20), 281, ("cat", "dog"))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"hidden_size": "768"}, "hidden_size '768'"),
        ({"hidden_size": 768.0}, "hidden_size 768.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers True"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"image_size": [224, 224, 3]}, "image_size"),
        ({"patch_size": None}, "patch_size None"),
        ({"patch_size": 225}, "exceeds image_size"),
        ({"num_attention_heads": 7}, "does not divide into 7 heads"),
        ({"num_attention_heads": 0}, "num_attention_heads 0"),
        ({"patch_size": 0}, "patch_size 0"),
        ({"hidden_act": "relu"}, "'relu'"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps 'tiny'"),
        ({"qkv_bias": "yes"}, "qkv_bias 'yes'"),
        ({"id2label": {"0": "a", "2": "c"}}, "id2label does not name the classes"),
        ({"id2label": {"zero": "a"}}, "id2label does not name the classes"),
        ({"id2label": "cat"}, "id2label does not name the classes"),
        ({"num_labels": -1}, "num_labels -1"),
    ],
    ids=str,
)
def test_what_makes_no_vit_is_named(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        VitConfig.from_json(given)
    assert "\n" not in str(error.value)
