"""A checkpoint's tensors in the device's layout do what they did in transformers'."""

import pytest
import torch
from transformers import ViTForImageClassification

from tests.vit_actor.agreement import as_read, random_vit
from vit_actor.geometry import Geometry, geometry
from vit_actor.preprocess import Preprocess
from vit_actor.weights import CENTRE, Weights, arrange, rounded, steep

TINY = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"image_size": 32, "patch_size": 8, "num_labels": 10}
UNEVEN = Preprocess(32, 32, 2, scale=(1 / 255 / 0.2, 1 / 255 / 0.3, 1 / 255 / 0.4), shift=(-2.0, -1.5, -1.0))


def arranged(model: ViTForImageClassification) -> tuple[Weights[torch.Tensor], Geometry]:
    size = geometry(as_read(model.config), images_per_chip=8)
    return arrange(model.state_dict(), as_read(model.config), UNEVEN, size), size


def test_embeddings_of_raw_pixels_equal_those_of_normalised_images() -> None:
    model = random_vit(**TINY)
    weights, size = arranged(model)
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    lines = images.reshape(3, 4, 8, 4, 24).transpose(2, 3).reshape(3, 16, 192)
    rows = torch.full((3, size.padded_tokens, size.pixels), CENTRE)
    rows[:, 1:17, :192] = lines
    embedded = (rows.float() - CENTRE) @ weights.patches + weights.tokens
    normalised = images.float() * torch.tensor(UNEVEN.scale) + torch.tensor(UNEVEN.shift)
    with torch.no_grad():
        expected = model.vit.embeddings(normalised.permute(0, 3, 1, 2))
    torch.testing.assert_close(embedded[:, : size.tokens], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(embedded[:, size.tokens :], torch.zeros(3, size.padded_tokens - size.tokens, 64))


def test_a_model_without_query_key_value_biases_gets_zeros() -> None:
    weights, _ = arranged(random_vit(**TINY, qkv_bias=False))
    assert torch.equal(weights.layers[0].qkv.bias, torch.zeros(1, 192))


@pytest.mark.parametrize("fused", [False, True], ids=["per head", "in one op"])
def test_only_a_model_whose_scores_could_overflow_is_steep(fused: bool) -> None:
    sizes = TINY | {"image_size": 384, "patch_size": 16, "num_hidden_layers": 1} if fused else TINY
    model = random_vit(**sizes)
    weights, size = arranged(model)
    assert size.fused_attention == fused
    assert not steep(weights, size)
    with torch.no_grad():
        for layer in model.vit.layers:
            layer.attention.q_proj.weight *= 300
            layer.attention.k_proj.weight *= 10
    assert steep(*arranged(model))
    with torch.no_grad():
        for layer in model.vit.layers:
            layer.attention.q_proj.weight /= 300
            layer.attention.q_proj.bias.fill_(30)
            layer.attention.k_proj.bias.fill_(30)
    assert steep(*arranged(model))


def test_a_rounded_weight_is_the_nearest_that_keeps_so_many_bits() -> None:
    weight = torch.tensor([1.0, 1.03, 1.04, 1.97, -0.7, 3e-8, 0.0])
    assert rounded(weight, 5).tolist() == pytest.approx([1.0, 1.0, 1.0625, 2.0, -0.6875, 0.5 * 2**-24 * 1.0, 0.0], abs=1e-9)
    cut = rounded(torch.randn(1000), 5)
    assert torch.equal(cut, (cut.view(torch.int32) & (-1 << 19)).view(torch.float32))
