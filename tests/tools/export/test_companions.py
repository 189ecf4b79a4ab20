"""Companions against a loop over users and items."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.export.companions import SHRINKAGE, TITLE_SHARE, both_vectors, companion_vectors


def unit(rng: np.random.Generator, n: int) -> Any:
    vectors = rng.normal(size=(n, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0
    return vectors.astype(np.float32)


def split(data: Dataset, sizes: tuple[int, ...]) -> Dataset:
    """The same items in other domains."""
    names = [f"d{n}" for n in range(len(sizes))]
    return replace(data, catalogue=Catalogue.from_sizes(data.catalogue.ids, [""] * 66, names, sizes))


def ranges(sizes: tuple[int, ...]) -> list[range]:
    stops = np.cumsum([1, *sizes]).tolist()
    return [range(start, stop) for start, stop in pairwise(stops)]


@pytest.mark.parametrize("sizes", [(30, 36), (30, 10, 26), (8, 22, 4, 20, 12)])
def test_companions_are_means_over_users(small_world: Any, sizes: tuple[int, ...]) -> None:
    """The first users have one domain, one item twice, or nothing."""
    histories = [[1, 2], [40], [], [5, 5, 5, 33, 33, 34], *(h.tolist() for h in small_world.data.train)]
    train = Histories.from_lists(histories, [f"u{i}" for i in range(len(histories))])
    data = replace(split(small_world.data, sizes), train=train)
    items = unit(np.random.default_rng(0), 67)
    rows, offsets = train.rows.copy(), train.offsets.copy()
    found = companion_vectors(data, items)
    np.testing.assert_array_equal(train.offsets, offsets)
    np.testing.assert_array_equal(train.rows, rows)
    assert (found.dtype, found.shape) == (np.float32, (len(sizes) - 1, 67, 4))
    domains = ranges(sizes)
    for target, wanted in enumerate(domains):
        users = [set(h) for h in histories if set(h) & set(wanted) and set(h) - set(wanted)]
        means = [np.mean([items[i].astype(float) for i in user if i in wanted], axis=0) for user in users]
        centre = np.mean(means, axis=0)
        for domain, own in enumerate(domains):
            if domain == target:
                continue
            place = [d for d in range(len(sizes)) if d != domain].index(target)
            for item in own:
                of_users = [mean - centre for user, mean in zip(users, means, strict=True) if item in user]
                expected = np.sum(of_users, axis=0) / (len(of_users) + SHRINKAGE)
                np.testing.assert_allclose(found[place, item], expected, atol=1e-6)
    assert not found[:, 0].any()


def test_without_overlapped_users_there_are_none(small_world: Any) -> None:
    train = Histories.from_lists([[1, 2], [40, 41]], ["u", "v"])
    found = companion_vectors(replace(small_world.data, train=train), unit(np.random.default_rng(0), 67))
    assert not found.any()


@pytest.mark.parametrize("sizes", [(30, 36), (30, 10, 26)])
@pytest.mark.parametrize("with_companions", [True, False])
def test_a_mixture_by_hand(small_world: Any, with_companions: bool, sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    titles, companions = rng.normal(size=(2, len(sizes) - 1, 67, 3))
    titles[:, [0, 4, 50]] = 0
    companions[:, [0, 6, 50]] = 0
    companions *= with_companions
    found = both_vectors(split(small_world.data, sizes), titles, companions)
    for place in range(len(sizes) - 1):
        said, company = titles[place], companions[place]
        for own in ranges(sizes):
            centre = np.mean([said[i] for i in own if said[i].any()], axis=0)
            lengths = [np.sqrt(company[i] @ company[i]) for i in own if company[i].any()]
            share = TITLE_SHARE * (np.mean(lengths) if lengths else 1.0)
            for i in own:
                expected = company[i].copy()
                if said[i].any():
                    title = said[i] - centre
                    expected += share * title / np.sqrt(title @ title)
                np.testing.assert_allclose(found[place, i], expected, atol=1e-6)
    assert not found[:, 50].any()
