"""Companions against a loop over users and items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmcdsr_tools.dataset import Histories
from llmcdsr_tools.export.companions import SHRINKAGE, TITLE_SHARE, both_vectors, companion_vectors


def unit(rng: np.random.Generator, n: int) -> Any:
    vectors = rng.normal(size=(n, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0
    return vectors.astype(np.float32)


def test_companions_are_means_over_users(small_world: Any) -> None:
    """The first users have one domain, one item twice, or nothing."""
    histories = [[1, 2], [40], [], [5, 5, 5, 33, 33, 34], *(h.tolist() for h in small_world.data.train)]
    train = Histories.from_lists(histories, [f"u{i}" for i in range(len(histories))])
    data = replace(small_world.data, train=train)
    items = unit(np.random.default_rng(0), 67)
    rows, offsets = train.rows.copy(), train.offsets.copy()
    found = companion_vectors(data, items)
    np.testing.assert_array_equal(train.offsets, offsets)
    np.testing.assert_array_equal(train.rows, rows)
    assert (found.dtype, found.shape) == (np.float32, (67, 4))
    both = [set(h) for h in histories if any(i <= 30 for i in h) and any(i > 30 for i in h)]
    for own, others in ((range(1, 31), range(31, 67)), (range(31, 67), range(1, 31))):
        means = [np.mean([items[i].astype(float) for i in user if i in others], axis=0) for user in both]
        centre = np.mean(means, axis=0)
        for item in own:
            of_users = [mean - centre for user, mean in zip(both, means, strict=True) if item in user]
            expected = np.sum(of_users, axis=0) / (len(of_users) + SHRINKAGE)
            np.testing.assert_allclose(found[item], expected, atol=1e-6)
    assert not found[0].any()


def test_without_overlapped_users_there_are_none(small_world: Any) -> None:
    train = Histories.from_lists([[1, 2], [40, 41]], ["u", "v"])
    found = companion_vectors(replace(small_world.data, train=train), unit(np.random.default_rng(0), 67))
    assert not found.any()


@pytest.mark.parametrize("with_companions", [True, False])
def test_a_mixture_by_hand(small_world: Any, with_companions: bool) -> None:
    rng = np.random.default_rng(1)
    titles, companions = rng.normal(size=(2, 67, 3))
    titles[[0, 4, 50]] = 0
    companions[[0, 6, 50]] = 0
    companions *= with_companions
    found = both_vectors(small_world.data, titles, companions)
    for own in (range(1, 31), range(31, 67)):
        centre = np.mean([titles[i] for i in own if titles[i].any()], axis=0)
        lengths = [np.sqrt(companions[i] @ companions[i]) for i in own if companions[i].any()]
        share = TITLE_SHARE * (np.mean(lengths) if lengths else 1.0)
        for i in own:
            expected = companions[i].copy()
            if titles[i].any():
                title = titles[i] - centre
                expected += share * title / np.sqrt(title @ title)
            np.testing.assert_allclose(found[i], expected, atol=1e-6)
    assert not found[50].any()
