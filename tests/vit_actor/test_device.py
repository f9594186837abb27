"""What every device answers with: the best classes and their probabilities."""

import numpy as np
import pytest
import torch

from vit_actor.device import NO_CLASS, best_of, top_k


@pytest.mark.parametrize(("classes", "best"), [(1000, 5), (3, 3)])
def test_the_best_five_with_their_softmax_probabilities(classes: int, best: int) -> None:
    logits = np.random.default_rng(0).normal(scale=4, size=(64, classes)).astype(np.float32)
    found, probabilities = top_k(logits)
    expected, order = torch.softmax(torch.from_numpy(logits), 1).topk(best)
    assert (found.dtype, probabilities.dtype) == (np.int32, np.float32)
    assert found.tolist() == order.tolist()
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


@pytest.mark.parametrize("step", [0.5, 8.0], ids=["some ties", "nearly all tied"])
def test_ties_go_to_the_lower_class(step: float) -> None:
    logits = (np.round(np.random.default_rng(1).normal(scale=4, size=(64, 100)) / step) * step).astype(np.float32)
    logits[0] = [-0.0, 0.0] * 50
    classes, _ = top_k(logits)
    assert classes.tolist() == np.argsort(-logits, axis=1, kind="stable")[:, :5].tolist()


@pytest.mark.parametrize("harm", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lost", [[3], [0, 7], list(range(8))], ids=["one", "two", "all"])
def test_an_image_with_a_logit_that_is_no_number_gets_no_class_and_the_others_theirs(harm: float, lost: list[int]) -> None:
    logits = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)
    expected, probable = top_k(logits.copy())
    expected[lost], probable[lost], logits[lost, 4] = NO_CLASS, 0, harm
    classes, probabilities = top_k(logits)
    np.testing.assert_array_equal(classes, expected)
    np.testing.assert_array_equal(probabilities, probable)


def test_the_best_of_some_classes_is_theirs_by_logit_and_no_class_where_a_logit_is_no_number() -> None:
    logits = np.array([[9.0, 1.0, 5.0, 5.0], [9.0, 7.0, 5.0, 2.0], [9.0, np.nan, 5.0, 2.0]], np.float32)
    held = best_of(logits, (1, 2, 3))
    assert held is not None
    assert (held.dtype, held.tolist()) == (np.int32, [2, 1, NO_CLASS])
    assert best_of(logits, None) is None
