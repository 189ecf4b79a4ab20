"""Pooling against loops over users and names, its gradient against central differences."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from padded_sasrec import assert_gradient, numerical_gradient

from llmcdsr_lite.model.recall_network import pool, pool_backward, project

Array = npt.NDArray[np.float64]

OFFSETS = np.array([0, 3, 4, 9])


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def test_projection_is_a_product_for_every_name() -> None:
    text, projection = normal(1, 4, 3), normal(2, 5, 3)
    for name, found in zip(text, project(text, projection), strict=True):
        assert found == pytest.approx(
            [sum(p * t for p, t in zip(row, name, strict=True)) for row in projection]
        )


def test_pooling_is_a_loop_over_users() -> None:
    names, pooler = normal(1, 9, 4), normal(2, 4)
    pooled, _ = pool(names, OFFSETS, pooler)
    for user in range(3):
        own = names[OFFSETS[user] : OFFSETS[user + 1]]
        weights = [math.exp(sum(n * pooler)) for n in own]
        expected = sum(w * n for w, n in zip(weights, own, strict=True)) / sum(weights)
        assert pooled[user] == pytest.approx(expected)


def test_a_pooler_of_zeros_takes_the_mean() -> None:
    names = normal(1, 9, 4)
    pooled, _ = pool(names, OFFSETS, np.zeros(4))
    assert pooled == pytest.approx(np.stack([names[:3].mean(0), names[3], names[4:].mean(0)]))


def test_large_scores_do_not_overflow() -> None:
    pooled, _ = pool(np.array([[1000.0], [2000.0]]), np.array([0, 2]), np.array([5.0]))
    assert pooled.tolist() == [[2000.0]]


def test_pool_backward() -> None:
    names, pooler, d_pooled = normal(1, 9, 4), normal(2, 4), normal(3, 3, 4)

    def objective() -> float:
        return float((pool(names, OFFSETS, pooler)[0] * d_pooled).sum())

    assert_gradient(
        pool_backward(d_pooled, pool(names, OFFSETS, pooler)[1]), numerical_gradient(objective, pooler)
    )


def test_nobody_pools_to_nothing() -> None:
    pooled, cache = pool(np.zeros((0, 4)), np.array([0]), normal(1, 4))
    assert pooled.shape == (0, 4)
    assert pool_backward(pooled, cache).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("offsets", [[0, 3, 3, 9], [0, 4], [1, 9], [0, 9, 4]])
def test_users_without_names_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="with a name for every user"):
        pool(normal(1, 9, 4), np.array(offsets), normal(2, 4))
