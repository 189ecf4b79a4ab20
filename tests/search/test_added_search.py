"""Search with added items, against the exact search of all."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search.added import AddedSearch, Domains, beside
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter

H = 3
BEFORE = (Domain("a", 1, 8), Domain("b", 8, 20))


def searches(n_a: int, n_b: int, seed: int) -> tuple[AddedSearch, ExactSearch, Domains]:
    """Added to an exact search; few different values, so that scores tie."""
    after = (Domain("a", 1, 8 + n_a), Domain("b", 8 + n_a, 20 + n_a + n_b))
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (after[1].stop, H)).astype(np.float32)
    vectors[0] = 0
    is_old = [0, *range(1, 8), *range(8 + n_a, 20 + n_a)]
    base = ExactSearch(vectors[is_old])
    return AddedSearch(base, BEFORE, after, vectors), ExactSearch(vectors), after


@settings(max_examples=3 * settings().max_examples // 2)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 99), st.integers(1, 40), st.data())
def test_as_the_exact_search_of_all(n_a: int, n_b: int, seed: int, k: int, data: st.DataObject) -> None:
    found, expected, after = searches(n_a, n_b, seed)
    start, stop = data.draw(
        st.sampled_from([(1, after[1].stop), *((domain.start, domain.stop) for domain in after)])
    )
    rows = st.lists(st.integers(1, after[1].stop - 1), max_size=12)
    blocked = [np.array(data.draw(rows), dtype=np.int64) for _ in range(3)]
    allowed = data.draw(st.none() | rows)
    only = None if allowed is None else np.unique(np.array(allowed, dtype=np.int64))
    users = np.random.default_rng(seed).integers(-2, 3, (3, H)).astype(np.float32)
    for one, other in zip(
        found.search(users, k, RowFilter(start, stop, blocked, only)),
        expected.search(users, k, RowFilter(start, stop, blocked, only)),
        strict=True,
    ):
        assert np.array_equal(one, other)


def test_it_goes_by_the_name_of_what_it_extends() -> None:
    found, _, _ = searches(2, 1, 0)
    assert found.name == "exact"
    found.base.name = "other"
    rebuilt = AddedSearch(found.base, BEFORE, BEFORE, np.zeros((20, H), np.float32))
    assert rebuilt.name == "other"


def test_nobody_asks() -> None:
    found, _, after = searches(2, 1, 0)
    rows, scores = found.search(np.zeros((0, H), np.float32), 4, RowFilter(1, after[1].stop, []))
    assert rows.shape == scores.shape == (0, 4)


def test_items_added_again_are_beside_the_first_search() -> None:
    found, _, after = searches(2, 1, 0)
    more = (Domain("a", 1, 12), Domain("b", 12, 25))
    vectors = np.random.default_rng(1).normal(size=(25, H)).astype(np.float32)
    again = beside(found, after, more, vectors)
    assert again.base is found.base
    assert again.before == BEFORE
