"""Searches with bonuses against sums of exact products over every item."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search.added import AddedSearch
from llmcdsr_lite.search.bonus import SparseBonus
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter, Search
from llmcdsr_lite.search.two_pass import TwoPassSearch

N_A, N_B, HIDDEN = 300, 500, 8
DOMAINS = Domain("a", 1, N_A + 1), Domain("b", N_A + 1, N_A + N_B + 1)
RANGES = [(1, N_A + N_B + 1), (1, N_A + 1), (N_A + 1, N_A + N_B + 1)]


def world(seed: int, kind: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(N_A + N_B + 1, HIDDEN)).astype(np.float32)
    users = rng.normal(size=(5, HIDDEN)).astype(np.float32)
    if kind == "ties":
        vectors = rng.integers(-1, 2, vectors.shape).astype(np.float32)
        users = rng.integers(-1, 2, users.shape).astype(np.float32)
    if kind == "lengths":
        vectors *= (10.0 ** rng.uniform(-6, 3, (len(vectors), 1))).astype(np.float32)
    users[1] = 0  # all depends on the bonus
    vectors[0] = 0
    return vectors, users


def some_bonus(rng: np.random.Generator, scale: float, *, shifted: bool) -> SparseBonus:
    rows = np.flatnonzero(rng.random(N_A + N_B + 1) < 0.1)
    rows = rows[rows > 0]
    amounts = (scale * rng.random(len(rows))).astype(np.float32)
    shift = float(rng.normal() * scale)
    return SparseBonus(rows, amounts, ((N_A + 1, N_A + N_B + 1, shift),) if shifted else ())


def brute_force(
    user: Any, vectors: Any, k: int, rows: list[int], bonus: SparseBonus | None
) -> list[tuple[int, float]]:
    amounts: dict[int, float] = {}
    if bonus is not None:
        amounts = dict(zip(bonus.rows.tolist(), map(float, bonus.amounts), strict=True))
    scored = []
    for row in rows:
        score = math.fsum(float(x) * float(y) for x, y in zip(user, vectors[row], strict=True))
        if bonus is not None:
            score += amounts.get(row, 0.0)
            score += sum(shift for start, stop, shift in bonus.shifts if start <= row < stop)
        scored.append((row, float(np.float32(score))))
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]


def check(search: Search, vectors: Any, users: Any, bonuses: Any, blocked: Any, allowed: Any, k: int) -> None:
    for start, stop in RANGES:
        rows, scores = search.search(users, k, RowFilter(start, stop, blocked, allowed), bonuses)
        for i, user in enumerate(users):
            left = set(range(start, stop)) - set(blocked[i].tolist())
            left = left if allowed is None else left & set(allowed.tolist())
            expected = brute_force(user, vectors, k, sorted(left), bonuses[i])
            n = len(expected)
            assert rows[i, :n].tolist() == [row for row, _ in expected]
            assert scores[i, :n].tolist() == [score for _, score in expected]
            assert not rows[i, n:].any()


@pytest.mark.parametrize("kind", ["normal", "ties", "lengths"])
@pytest.mark.parametrize(
    "scale", [1e-3, 1.0, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (30.0, 1e6))]
)
@pytest.mark.parametrize("shifted", [False, True])
def test_exact_searches_find_what_a_loop_finds(kind: str, scale: float, shifted: bool) -> None:
    vectors, users = world(len(kind), kind)
    rng = np.random.default_rng(3)
    bonuses = [some_bonus(rng, scale, shifted=shifted), *[some_bonus(rng, scale, shifted=shifted)] * 2, None]
    bonuses.append(SparseBonus(np.zeros(0, np.int64), np.zeros(0, np.float32)))
    blocked = [rng.choice(np.arange(1, N_A + N_B + 1), 20, replace=False) for _ in users]
    blocked[2] = bonuses[2].rows[:5]
    few, many = (np.sort(rng.choice(np.arange(1, N_A + N_B + 1), n, replace=False)) for n in (90, 640))
    for search in (ExactSearch(vectors), TwoPassSearch(vectors, DOMAINS, 1)):
        check(search, vectors, users, bonuses, blocked, None, 7)
        check(search, vectors, users, bonuses, blocked, few, 7)
        check(search, vectors, users, bonuses, blocked, many, 7)
        one = [users[:1], bonuses[:1], blocked[:1]]
        check(search, vectors, *one, None, 20)


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_added_items_and_bonuses(seed: int) -> None:
    """The search before knows neither the added items nor the bonus: the best are found all the same."""
    vectors, users = world(seed, "normal")
    before = Domain("a", 1, N_A - 9), Domain("b", N_A - 9, N_A + N_B - 29)
    old = np.concatenate([vectors[: N_A - 9], vectors[N_A + 1 : N_A + N_B - 19]])
    search = AddedSearch(ExactSearch(old), before, DOMAINS, vectors)
    rng = np.random.default_rng(seed)
    bonuses = [some_bonus(rng, 2.0, shifted=True) for _ in users]
    blocked = [rng.choice(np.arange(1, N_A + N_B + 1), 20, replace=False) for _ in users]
    check(search, vectors, users, bonuses, blocked, None, 6)


def test_hnsw_scores_what_a_bonus_touches() -> None:
    pytest.importorskip("hnswlib")
    from llmcdsr_lite.search.hnsw import HnswSearch

    vectors, users = world(5, "normal")
    search = HnswSearch(vectors, DOMAINS, 1)
    search.set_ef_search(300)  # as good as exact
    rng = np.random.default_rng(5)
    bonuses = [some_bonus(rng, 5.0, shifted=True), None, *[some_bonus(rng, 5.0, shifted=False)] * 3]
    blocked = [rng.choice(np.arange(1, N_A + N_B + 1), 3, replace=False) for _ in users]
    expected, scores = ExactSearch(vectors).search(users, 5, RowFilter(1, N_A + N_B + 1, blocked), bonuses)
    found, found_scores = search.search(users, 5, RowFilter(1, N_A + N_B + 1, blocked), bonuses)
    chosen = [0, 2, 3, 4]  # a zero vector has no nearest
    assert found[chosen].tolist() == expected[chosen].tolist()
    np.testing.assert_array_equal(found_scores[chosen], scores[chosen])
