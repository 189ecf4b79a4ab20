"""Values of the experts against loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.mix import experts as module
from llmcdsr_lite.mix.experts import NextCounts, sparse_experts, weighed_experts
from llmcdsr_lite.mix.mixture import Mixture, seen_rows
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights

CATALOGUE = Catalogue.from_sizes([str(n) for n in range(9)], [""] * 9, ("a", "b"), (4, 5))
N_ROWS = 10
HISTORIES = st.lists(st.integers(1, 9), max_size=30)


def some_counts(seed: int) -> tuple[NextCounts, dict[tuple[int, int], float]]:
    rng = np.random.default_rng(seed)
    pairs = {
        (j, i): float(np.float32(rng.random() + 0.01))
        for j in range(1, N_ROWS)
        for i in range(1, N_ROWS)
        if rng.random() < 0.4
    }
    sizes, rows, weights = [], [], []
    for domain in CATALOGUE.domains:
        for j in range(N_ROWS):
            own = [i for i in range(domain.start, domain.stop) if (j, i) in pairs]
            sizes.append(len(own))
            rows += own
            weights += [pairs[j, i] for i in own]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return NextCounts(starts, np.array(rows, np.int32), np.array(weights, np.float32)), pairs


def by_loops(history: list[int], item: int, pairs: dict[tuple[int, int], float]) -> list[float]:
    newest = history[::-1]
    near = sum(0.8**age * pairs.get((j, item), 0.0) for age, j in enumerate(newest[:20]))
    recent = 0.9 ** newest.index(item) if item in newest else 0.0
    return [math.log(1 + 20 * near), math.log(1 + history.count(item)), recent]


@given(HISTORIES, st.integers(0, 5))
def test_experts_are_their_formulas(history: list[int], seed: int) -> None:
    counts, pairs = some_counts(seed)
    for index, domain in enumerate(CATALOGUE.domains):
        rows, values = sparse_experts(np.array(history, np.int64), index, CATALOGUE.domains, counts)
        assert rows.tolist() == sorted(set(rows.tolist()))
        found = dict(zip(rows.tolist(), values, strict=True))
        for item in range(domain.start, domain.stop):
            expected = by_loops(history, item, pairs)
            np.testing.assert_allclose(found.pop(item, np.zeros(3)), expected, rtol=1e-5, atol=1e-7)
        assert not found  # nothing of the other domain


@given(HISTORIES.filter(bool), st.integers(0, 3), st.sampled_from([0, 1 << 16]))
def test_weighed_experts_are_values_times_weights(history: list[int], seed: int, dense: int) -> None:
    counts, _ = some_counts(seed)
    array = np.array(history, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_DENSE", dense)
        for weights in (ExpertWeights(1.5, 0.5, 2.0), ExpertWeights(2.0), ExpertWeights(repeat=1.0)):
            for index in (0, 1):
                rows, values = sparse_experts(array, index, CATALOGUE.domains, counts)
                found, amounts = weighed_experts(array, index, CATALOGUE.domains, counts, weights)
                summed = dict(zip(found.tolist(), amounts.tolist(), strict=True))
                for row, value in zip(rows.tolist(), values @ np.array(weights.sparse), strict=True):
                    assert summed.pop(row, 0.0) == pytest.approx(value, rel=1e-5, abs=1e-6)
                assert not any(summed.values())


@given(HISTORIES.filter(bool), st.integers(0, 3))
def test_the_mixture_weighs_them_for_each_domain_and_kind_of_user(history: list[int], seed: int) -> None:
    counts, pairs = some_counts(seed)
    warm, cold = ExpertWeights(1.5, 0.5, 2.0), ExpertWeights(0.25, 0.0, 0.0)
    mixes = (
        DomainMix(warm, cold, offset=0.5),
        DomainMix(ExpertWeights(0.0, 3.0, 0.0), ExpertWeights(), offset=-1.0, offset_last=0.75),
    )
    mixture = Mixture(CATALOGUE, mixes, counts)
    rows = np.arange(1, N_ROWS)
    array = np.array(history, np.int64)
    in_b = history[-1] >= 5
    for start, stop in ((1, 10), (1, 5), (5, 10)):
        bonus = mixture.bonus(array, start, stop)
        assert bonus is not None
        shift = (-1.0 + 0.75 * in_b - 0.5) if (start, stop) == (1, 10) else 0.0
        for row in rows[start - 1 : stop - 1].tolist():
            index = int(row >= 5)
            own = any((item >= 5) == bool(index) for item in history)
            weights = (mixes[index].warm if own else mixes[index].cold).sparse
            shares = [w * x for w, x in zip(weights, by_loops(history, row, pairs), strict=True)]
            expected = sum(shares) + (shift if index else 0.0)
            assert bonus.of(np.array([row]))[0] == np.float32(expected) or math.isclose(
                bonus.of(np.array([row]))[0], expected, rel_tol=1e-5, abs_tol=1e-6
            )
            told = mixture.shares(array, row, start, stop)
            assert math.isclose(sum(told.values()), expected, rel_tol=1e-5, abs_tol=1e-6)


def test_no_weights_no_bonus() -> None:
    offsets = (DomainMix(), DomainMix(offset=1.0))
    history: Any = np.array([1, 6])
    assert Mixture(CATALOGUE, (DomainMix(), DomainMix()), None).bonus(history, 1, 10) is None
    assert Mixture(CATALOGUE, offsets, None).bonus(history, 1, 5) is None
    bonus = Mixture(CATALOGUE, offsets, None).bonus(history, 1, 10)
    assert bonus is not None
    assert bonus.of(np.array([4, 5, 9])).tolist() == [0.0, 1.0, 1.0]


def test_rows_that_are_left_out_by_default() -> None:
    keep, leave = DomainMix(exclude_seen=False), DomainMix()
    assert seen_rows((leave, leave), CATALOGUE) == ((1, 10),)
    assert seen_rows((keep, leave), CATALOGUE) == ((5, 10),)
    assert seen_rows((leave, keep), CATALOGUE) == ((1, 5),)
    assert seen_rows((keep, keep), CATALOGUE) == ()
    three = Catalogue.from_sizes([str(n) for n in range(9)], [""] * 9, "abc", (2, 3, 4))
    assert seen_rows((leave, keep, leave), three) == ((1, 3), (6, 10))
    assert seen_rows((keep, leave, leave), three) == ((3, 10),)
