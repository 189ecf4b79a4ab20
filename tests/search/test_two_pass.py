"""Two passes against sums of exact products over every item, on random and on hostile vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search import two_pass as module
from llmcdsr_lite.search.choice import make_search
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter, Rows, Search
from llmcdsr_lite.search.two_pass import TwoPassSearch

Vectors = npt.NDArray[np.float32]
NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class World:
    """A catalogue of two domains, users, and what each must not get."""

    vectors: Vectors
    domains: tuple[Domain, Domain]
    users: Vectors
    blocked: list[Rows]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        a, b = self.domains
        return [(a.start, b.stop), (a.start, a.stop), (b.start, b.stop)]


def exact_score(user: Vectors, vector: Vectors) -> float:
    """The sum of products without any rounding, then rounded to float32."""
    return float(np.float32(math.fsum(float(x) * float(y) for x, y in zip(user, vector, strict=True))))


def brute_force(
    user: Vectors, vectors: Vectors, k: int, start: int, stop: int, blocked: Rows
) -> list[tuple[int, float]]:
    """Every item of the range that is not blocked, sorted; ties by row."""
    left = sorted(set(range(start, stop)) - set(blocked.tolist()))
    scored = [(row, exact_score(user, vectors[row])) for row in left]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]


def assert_brute_force(search: Search, world: World, ks: list[int]) -> int:
    """Compare every range and k; how many answers were compared."""
    for start, stop in world.ranges:
        expected = [
            brute_force(user, world.vectors, max(ks), start, stop, blocked)
            for user, blocked in zip(world.users, world.blocked, strict=True)
        ]
        for k in ks:
            rows, scores = search.search(world.users, k, RowFilter(start, stop, world.blocked))
            assert rows.shape == scores.shape == (len(world.users), k)
            assert scores.dtype == np.float32
            for i, best in enumerate(expected):
                n = min(k, len(best))
                assert rows[i].tolist() == [row for row, _ in best[:k]] + [0] * (k - n)
                assert scores[i, :n].tolist() == [score for _, score in best[:k]]
                assert np.isneginf(scores[i, n:]).all()
    return 3 * len(ks) * len(world.users)


def normal(rng: np.random.Generator, vectors: Vectors) -> None:
    """As they come."""


def ties(rng: np.random.Generator, vectors: Vectors) -> None:
    """A few whole numbers: most scores are those of many items."""
    vectors[:] = rng.integers(-1, 2, vectors.shape)


def duplicates(rng: np.random.Generator, vectors: Vectors) -> None:
    """Every vector several times, far apart."""
    vectors[:] = vectors[rng.integers(0, 1 + len(vectors) // 9, len(vectors))]


def near_duplicates(rng: np.random.Generator, vectors: Vectors) -> None:
    """Vectors that differ in their last bits, whose scores differ in theirs or not at all."""
    duplicates(rng, vectors)
    vectors *= (1 + rng.integers(-2, 3, vectors.shape) * 2.0**-23).astype(np.float32)


def wild_lengths(rng: np.random.Generator, vectors: Vectors) -> None:
    """Lengths from 1e-15 to 1e15: a step of 8 bits is larger than most vectors."""
    vectors *= 10.0 ** rng.uniform(-15, 15, (len(vectors), 1))


def one_giant(rng: np.random.Generator, vectors: Vectors) -> None:
    """One value so large that all others are zero in 8 bits."""
    vectors[len(vectors) // 3, 0] = 3e7


def tiny(rng: np.random.Generator, vectors: Vectors) -> None:
    """Near the smallest numbers that there are."""
    vectors *= 1e-38


def below_normal(rng: np.random.Generator, vectors: Vectors) -> None:
    """Numbers that float32 has a few bits for."""
    vectors[:] = rng.integers(-3, 4, vectors.shape) * 1e-45


def zeros(rng: np.random.Generator, vectors: Vectors) -> None:
    """Two thirds are zero: neither best nor worst, and all alike."""
    vectors[rng.random(len(vectors)) < 0.67] = 0


def all_zero(rng: np.random.Generator, vectors: Vectors) -> None:
    """Nothing to tell items apart by."""
    vectors[:] = 0


def cancelling(rng: np.random.Generator, vectors: Vectors) -> None:
    """Large products that add up to little: float32 sums are mostly noise."""
    half = vectors.shape[1] // 2
    vectors[:, :half] = 1000 * (1 + 1e-4 * vectors[:, :half])
    vectors[:, half : 2 * half] = -vectors[:, :half] * (1 + 1e-6 * vectors[:, half : 2 * half])


def half_steps(rng: np.random.Generator, vectors: Vectors) -> None:
    """Every value is as far from its whole number as it can be."""
    vectors[:] = (rng.integers(-89, 89, vectors.shape) + 0.5) / 90
    vectors[:, 0] = 1


KINDS = [
    *(
        normal,
        ties,
        duplicates,
        near_duplicates,
        wild_lengths,
        one_giant,
        tiny,
        below_normal,
        zeros,
        all_zero,
    ),
    *(cancelling, half_steps),
]


def make_world(change: Callable[[np.random.Generator, Vectors], None], seed: int, n_users: int = 6) -> World:
    rng = np.random.default_rng([seed, KINDS.index(change)])
    n_items, hidden = int(rng.integers(40, 400)), int(rng.choice([1, 3, 8, 17, 64]))
    vectors = rng.normal(size=(n_items + 1, hidden)).astype(np.float32)
    change(rng, vectors)
    vectors[0] = 0
    users = rng.normal(size=(n_users, hidden)).astype(np.float32)
    users[1] = vectors[1 + seed % n_items] * np.float32(1 + seed % 3)  # the direction of an item
    users[2] *= np.float32(1e-30)
    users[3] = np.rint(users[3] * 2)
    if seed % 4 == 0:
        users[4] = 0
    first = int(rng.integers(1, n_items))
    domains = (Domain("a", 1, first + 1), Domain("b", first + 1, n_items + 1))
    # among them the best items, twice, those of the other domain, and sometimes all
    scores = users.astype(np.float64) @ vectors[1:].T.astype(np.float64)
    blocked = [np.repeat(np.argsort(-scores[i])[: rng.integers(0, 25)] + 1, 2) for i in range(n_users)]
    blocked[0] = NONE
    blocked[5] = np.arange(1, n_items + 1)[: rng.integers(n_items + 1)]
    return World(vectors, domains, users, blocked)


@pytest.mark.parametrize("few", [4, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("change", KINDS, ids=lambda change: change.__name__)
def test_both_searches_are_brute_force(change: Any, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FEW", few)  # with 4, many a user is left to exact search
    compared = 0
    for seed in range(4):
        world = make_world(change, seed)
        n_items = len(world.vectors) - 1
        ks = [1, 2, 3, 10, n_items // 16 or 1, n_items // 2, n_items, n_items + 5]
        compared += assert_brute_force(ExactSearch(world.vectors), world, ks)
        if change is all_zero:
            with pytest.raises(ValueError, match="all item vectors are zero"):
                TwoPassSearch(world.vectors, world.domains, 1)
            assert isinstance(make_search("auto", world.vectors, world.domains, 1, scan=True), ExactSearch)
            continue
        compared += assert_brute_force(TwoPassSearch(world.vectors, world.domains, 1), world, ks)
    assert compared > 500


@pytest.mark.parametrize("change", [normal, duplicates], ids=lambda change: change.__name__)
def test_most_searches_end_with_a_few_items(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan serves: the float32 product is not what finds the answers above."""
    world = make_world(change, 3)
    search = TwoPassSearch(world.vectors, world.domains, 1)

    def refuse(*_: Any) -> None:
        raise AssertionError("the scan was for nothing")

    monkeypatch.setattr(module.ExactSearch, "search", refuse)
    start, stop = world.ranges[0]
    rows, _ = search.search(world.users[:1], 3, RowFilter(start, stop, world.blocked[:1]))
    assert rows[0].tolist() == [
        r for r, _ in brute_force(world.users[0], world.vectors, 3, start, stop, NONE)
    ]


@pytest.fixture(scope="module")
def trained_like() -> World:
    """Vectors as training leaves them: alike in a few directions, longer where items are popular."""
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(3001, 64)) + 2 * rng.normal(size=(3001, 6)) @ rng.normal(size=(6, 64))
    vectors = (vectors * rng.gamma(4, 0.02, (3001, 1))).astype(np.float32)
    vectors[0] = 0
    users = (vectors[rng.integers(1, 3001, (300, 5))].mean(axis=1) * 60 + rng.normal(size=(300, 64))).astype(
        np.float32
    )
    blocked = [rng.integers(1, 3001, rng.integers(0, 30)) for _ in users]
    return World(vectors, (Domain("a", 1, 801), Domain("b", 801, 3001)), users, blocked)


def test_alone_or_in_company_the_answers_are_those_of_exact_search(
    trained_like: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = ExactSearch(trained_like.vectors)
    search = TwoPassSearch(trained_like.vectors, trained_like.domains, 1)
    monkeypatch.setattr(module, "_CHUNK_SCORES", 3000 * 7)  # seven users at a time
    for start, stop in trained_like.ranges:
        rows, scores = exact.search(trained_like.users, 10, RowFilter(start, stop, trained_like.blocked))
        found_rows, found_scores = search.search(
            trained_like.users, 10, RowFilter(start, stop, trained_like.blocked)
        )
        assert np.array_equal(found_rows, rows)
        assert np.array_equal(found_scores, scores)
        for i in range(0, 300, 3):
            one = slice(i, i + 1)
            for either in (exact, search):
                alone = either.search(
                    trained_like.users[one], 10, RowFilter(start, stop, trained_like.blocked[one])
                )
                assert np.array_equal(alone[0][0], rows[i])
                assert np.array_equal(alone[1][0], scores[i])


def test_what_cannot_be_scanned_is_searched_exactly(trained_like: World) -> None:
    exact = ExactSearch(trained_like.vectors)
    search = TwoPassSearch(trained_like.vectors, trained_like.domains, 1)
    users, blocked = trained_like.users[:9], trained_like.blocked[:9]
    allowed = np.arange(5, 2900, 7)
    for start, stop, allow in ((1, 3001, allowed), (801, 3001, allowed), (3, 2000, None), (5, 5, None)):
        for found, expected in zip(
            search.search(users, 10, RowFilter(start, stop, blocked, allow)),
            exact.search(users, 10, RowFilter(start, stop, blocked, allow)),
            strict=True,
        ):
            assert np.array_equal(found, expected)
    rows, scores = search.search(users[:0], 4, RowFilter(1, 3001, []))
    assert rows.shape == scores.shape == (0, 4)
    assert search.name == "exact"


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_user_that_is_no_number_spoils_nobody_elses_answer(trained_like: World, value: float) -> None:
    search = TwoPassSearch(trained_like.vectors, trained_like.domains, 1)
    users, blocked = trained_like.users[:3].copy(), trained_like.blocked[:3]
    expected, _ = search.search(users, 5, RowFilter(1, 3001, blocked))
    users[1] = value
    rows, _ = search.search(users, 5, RowFilter(1, 3001, blocked))
    assert np.array_equal(rows[[0, 2]], expected[[0, 2]])
    assert rows.shape == (3, 5)


def test_threads_share_a_search(trained_like: World) -> None:
    search = TwoPassSearch(trained_like.vectors, trained_like.domains, 1)

    def ask(i: int) -> Any:
        one = slice(i, i + 1)
        rows, _ = search.search(trained_like.users[one], 10, RowFilter(1, 3001, trained_like.blocked[one]))
        return rows.tolist()

    alone = [ask(i) for i in range(100)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(100))) == alone
