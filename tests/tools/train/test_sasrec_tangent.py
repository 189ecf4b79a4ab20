"""The tangent of the whole model against central differences of its gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.model import sasrec
from llmcdsr_lite.model.packing import pack_lists
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_lite.model.sasrec import RowGradient
from llmcdsr_tools.optimization import losses
from llmcdsr_tools.train.sasrec_tangent import backward_tangent, forward_tangent

Array = npt.NDArray[np.float64]

MAX_LENGTH = 4
BATCH = pack_lists([[3, 3, 7, 1], [5], [8, 2], [7, 6, 5], [9], [1, 2, 3, 4], [5, 3]], MAX_LENGTH)
TARGETS = np.random.default_rng(1).integers(1, 10, len(BATCH.rows))
NEGATIVES = np.random.default_rng(2).integers(1, 10, len(BATCH.rows))
SHARED = (np.array([1, 4, 2]), np.array([9, 7]))


def random_arrays(
    n_blocks: int, n_heads: int, hidden: int, padding_keys: bool, dropout: float, seed: int
) -> SASRecParameters:
    config = SASRecConfig(9, hidden, n_blocks, n_heads, MAX_LENGTH, dropout, padding_keys=padding_keys)
    parameters = SASRecParameters.zeros(config, np.float64)
    rng = np.random.default_rng(seed)
    parameters.item_embedding[:] = rng.normal(0, 0.5, parameters.item_embedding.shape)
    parameters.dense[:] = rng.normal(0, 0.5, parameters.dense.shape)
    return parameters


Loss = Callable[[Array, Array], losses.LossGradients]
LOSSES: dict[str, tuple[Loss, Callable[..., Array]]] = {
    "bce": (
        partial(losses.binary_cross_entropy, positives=TARGETS, negatives=NEGATIVES),
        partial(losses.binary_cross_entropy_tangent, positives=TARGETS, negatives=NEGATIVES),
    ),
    "softmax": (
        partial(losses.sampled_softmax, positives=TARGETS, shared_negatives=SHARED, domain_starts=[1, 5]),
        partial(
            losses.sampled_softmax_tangent, positives=TARGETS, shared_negatives=SHARED, domain_starts=[1, 5]
        ),
    ),
}


def input_gradient(parameters: SASRecParameters, loss: Loss) -> Array:
    """Gradient of the embedding that every token takes in, and of the features."""
    features, cache = sasrec.forward(parameters, BATCH, np.random.default_rng(5))  # the same masks always
    d_features = loss(features, parameters.item_embedding).d_features
    d_items = sasrec.backward(parameters, d_features, cache, parameters.zeros_like())
    return np.stack([d_items, d_features, features])


def moved(parameters: SASRecParameters, direction: SASRecParameters, step: float) -> SASRecParameters:
    return SASRecParameters(
        parameters.config,
        parameters.item_embedding + step * direction.item_embedding,
        parameters.dense + step * direction.dense,
    )


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("n_blocks", "n_heads", "hidden", "padding_keys"),
    [(1, 1, 4, True), (2, 2, 4, False), (2, 3, 6, True), (3, 4, 8, False)],
)
def test_it_is_the_derivative_along_a_direction(
    n_blocks: int, n_heads: int, hidden: int, padding_keys: bool, name: str, dropout: float
) -> None:
    sizes = (n_blocks, n_heads, hidden, padding_keys, dropout)
    parameters, direction = random_arrays(*sizes, seed=11), random_arrays(*sizes, seed=12)
    direction.item_embedding[[0, 4, 8]] = 0  # rows that stand still are left out of what moves
    moving = np.flatnonzero(direction.item_embedding.any(axis=1))
    item_dot = RowGradient(moving, direction.item_embedding[moving])
    loss, loss_tangent = LOSSES[name]

    features, cache = sasrec.forward(parameters, BATCH, np.random.default_rng(5))
    features_dot, tangent = forward_tangent(parameters, direction, item_dot.take(BATCH.rows), cache)
    d_features = loss(features, parameters.item_embedding).d_features
    d_features_dot = loss_tangent(features, features_dot, parameters.item_embedding, item_dot)
    both = np.stack([d_features, d_features_dot])
    d_items, d_items_dot = backward_tangent(parameters, direction, both, cache, tangent)

    h = 1e-6
    above, below = (input_gradient(moved(parameters, direction, s), loss) for s in (h, -h))
    expected = (above - below) / (2 * h)
    np.testing.assert_allclose(d_items, input_gradient(parameters, loss)[0], rtol=1e-9, atol=1e-12)
    for found, wanted in zip((d_items_dot, d_features_dot, features_dot), expected, strict=True):
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


def test_rows_that_are_not_there_stand_still() -> None:
    some = RowGradient(np.array([2, 5]), np.array([[1.0], [2.0]]))
    assert some.take(np.array([5, 1, 2, 9, 5])).tolist() == [[2], [0], [1], [0], [2]]
    nothing = RowGradient(np.zeros(0, np.int64), np.zeros((0, 2)))
    assert nothing.take(np.array([3])).tolist() == [[0, 0]]
