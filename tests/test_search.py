from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmcdsr_lite import search as module
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import MissingDependencyError
from llmcdsr_lite.hnsw import HnswSearch
from llmcdsr_lite.search import ExactSearch, make_search, top_k

NONE = np.zeros(0, dtype=np.int64)
DOMAINS = (Domain("a", 1, 801), Domain("b", 801, 2001))


def full_sort(scores: list[float], k: int) -> list[int]:
    """Columns of the k best scores by sorting all of them, ties by column."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


def brute_force(
    user: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
    k: int,
    start: int,
    stop: int,
    blocked: set[int],
    allowed: set[int] | None,
) -> list[int]:
    rows = [row for row in range(start, stop) if row not in blocked and (allowed is None or row in allowed)]
    scores = [sum(float(x) * float(y) for x, y in zip(user, vectors[row], strict=True)) for row in rows]
    return [rows[i] for i in full_sort(scores, k)]


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 4), st.integers(0, 12) | st.integers(30, 200)),
        elements=st.sampled_from([-np.inf, -2.0, -1.0, -0.0, 0.0, 1.0, 1.5, 3.0]),
    ),
    st.integers(1, 15),
)
@settings(max_examples=300, deadline=None)
def test_top_k_is_a_full_sort(scores: npt.NDArray[np.float32], k: int) -> None:
    columns, values = top_k(scores, k)
    assert columns.shape == values.shape == (len(scores), min(k, scores.shape[1]))
    for row, found, best in zip(scores.tolist(), columns.tolist(), values.tolist(), strict=True):
        assert found == full_sort(row, k)
        assert best == [row[i] for i in found]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_exact_search_is_brute_force(data: st.DataObject) -> None:
    n_items, n_users = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 4))
    small = st.integers(-2, 2).map(float)  # sums are exact, and there are ties
    vectors = data.draw(hnp.arrays(np.float32, (n_items + 1, 3), elements=small))
    users = data.draw(hnp.arrays(np.float32, (n_users, 3), elements=small))
    start = data.draw(st.integers(1, n_items))
    stop = data.draw(st.integers(start, n_items + 1))
    some = st.lists(st.integers(1, n_items), max_size=14)
    blocked = [data.draw(some) for _ in range(n_users)]
    allowed = data.draw(st.none() | st.sets(st.integers(1, n_items)))
    k = data.draw(st.integers(1, 14))
    rows, scores = ExactSearch(vectors).search(
        users,
        k,
        start,
        stop,
        [np.array(b, dtype=np.int64) for b in blocked],
        None if allowed is None else np.array(sorted(allowed), dtype=np.int64),
    )
    assert rows.shape == scores.shape == (n_users, k)
    for i in range(n_users):
        expected = brute_force(users[i], vectors, k, start, stop, set(blocked[i]), allowed)
        n = len(expected)
        assert rows[i].tolist() == expected + [0] * (k - n)
        assert scores[i, :n].tolist() == [float(users[i] @ vectors[row]) for row in expected]
        assert np.isneginf(scores[i, n:]).all()


def test_chunks_of_users_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (41, 4)).astype(np.float32)
    users = rng.integers(-3, 4, (23, 4)).astype(np.float32)
    blocked = [rng.integers(1, 41, n % 5) for n in range(23)]
    monkeypatch.setattr(module, "_CHUNK_SCORES", 40 * 5)  # five users at a time
    rows, _ = ExactSearch(vectors).search(users, 7, 1, 41, blocked, None)
    for i in range(23):
        expected = brute_force(users[i], vectors, 7, 1, 41, set(blocked[i].tolist()), None)
        assert rows[i].tolist() == expected


def test_memory_mapped_vectors(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("vectors") / "v.npy"
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.save(path, vectors)
    users = vectors[3:5]
    for name in ("exact", "auto"):
        search = make_search(name, np.load(path, mmap_mode="r"), (Domain("a", 1, 50),), 1)  # type: ignore[arg-type]
        rows, _ = search.search(users, 4, 1, 50, [NONE, NONE], None)
        assert rows.tolist() == [brute_force(u, vectors, 4, 1, 50, set(), None) for u in users]


@pytest.fixture(scope="module")
def vectors() -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(1).normal(size=(2001, 16)).astype(np.float32)
    vectors[0] = 0
    return vectors


@pytest.fixture(scope="module")
def hnsw(vectors: npt.NDArray[np.float32]) -> HnswSearch:
    return HnswSearch(vectors, DOMAINS, 1)


@pytest.mark.skipif(find_spec("hnswlib") is None, reason="hnswlib is not installed (it needs a compiler)")
class TestHnsw:
    @pytest.mark.parametrize(("start", "stop"), [(1, 2001), (1, 801), (801, 2001)])
    def test_recall_with_filters(
        self, hnsw: HnswSearch, vectors: npt.NDArray[np.float32], start: int, stop: int
    ) -> None:
        rng = np.random.default_rng(2)
        users = rng.normal(size=(60, 16)).astype(np.float32)
        every_score = users.astype(np.float64) @ vectors.astype(np.float64).T
        # the best items of each user are forbidden, so that a filter after the search has to look further
        blocked = [np.argsort(-every_score[i])[: i % 40] for i in range(60)]
        rows, scores = hnsw.search(users, 10, start, stop, blocked, None)
        assert rows.shape == (60, 10)
        hits = 0
        for i in range(60):
            found = rows[i].tolist()
            assert len(set(found)) == 10
            assert all(start <= row < stop for row in found)
            assert not set(found) & set(blocked[i].tolist())
            np.testing.assert_allclose(scores[i], every_score[i, found], atol=1e-4)
            assert (np.diff(scores[i]) <= 0).all()
            hits += len(
                set(found)
                & set(brute_force(users[i], vectors, 10, start, stop, set(blocked[i].tolist()), None))
            )
        assert hits / 600 >= 0.9

    def test_similar_items(self, hnsw: HnswSearch, vectors: npt.NDArray[np.float32]) -> None:
        items = vectors[1:50]
        rows, _ = hnsw.search(items, 10, 1, 2001, [np.array([n]) for n in range(1, 50)], None)
        expected = [brute_force(items[i], vectors, 10, 1, 2001, {i + 1}, None) for i in range(49)]
        hits = sum(len(set(a) & set(b)) for a, b in zip(rows.tolist(), expected, strict=True))
        assert hits / 490 >= 0.9

    def test_an_allow_list_is_searched_exactly(
        self, hnsw: HnswSearch, vectors: npt.NDArray[np.float32]
    ) -> None:
        allowed = np.array([5, 700, 900, 901, 1500])
        rows, _ = hnsw.search(vectors[7:8], 4, 801, 2001, [np.array([901])], allowed)
        expected = brute_force(vectors[7], vectors, 4, 801, 2001, {901}, set(allowed.tolist()))
        assert rows[0].tolist() == [*expected, 0, 0]

    @pytest.mark.parametrize("k", [700, 797, 800, 2000, 3000])
    def test_nearly_all_items(self, hnsw: HnswSearch, vectors: npt.NDArray[np.float32], k: int) -> None:
        rows, scores = hnsw.search(vectors[7:8], k, 1, 801, [np.array([1, 2, 3])], None)
        expected = brute_force(vectors[7], vectors, k, 1, 801, {1, 2, 3}, None)
        assert rows.shape == scores.shape == (1, k)
        assert sorted(set(rows[0].tolist()) - {0}) == sorted(expected)
        assert (scores[0] > -np.inf).sum() == len(expected) == min(k, 797)

    def test_items_that_are_all_alike(self) -> None:
        vectors = np.ones((2001, 4), dtype=np.float32)
        rows, scores = HnswSearch(vectors, DOMAINS, 1).search(vectors[:2], 900, 1, 2001, [NONE, NONE], None)
        assert [len(set(r)) for r in rows.tolist()] == [900, 900]
        assert (scores == 4).all()

    def test_no_users(self, hnsw: HnswSearch) -> None:
        rows, scores = hnsw.search(np.zeros((0, 16), np.float32), 3, 1, 2001, [], None)
        assert rows.shape == scores.shape == (0, 3)

    def test_auto_takes_it_for_large_catalogues(
        self, vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert make_search("auto", vectors, DOMAINS, 1).name == "exact"
        assert make_search("hnsw", vectors, DOMAINS, 1).name == "hnsw"
        monkeypatch.setattr(module, "AUTO_HNSW_ITEMS", 2000)
        assert make_search("auto", vectors, DOMAINS, 1).name == "hnsw"
        assert make_search("exact", vectors, DOMAINS, 1).name == "exact"


def test_without_hnswlib_auto_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    monkeypatch.setattr(module, "AUTO_HNSW_ITEMS", 10)
    vectors = np.random.default_rng(1).normal(size=(2001, 4)).astype(np.float32)
    search = make_search("auto", vectors, DOMAINS, 1)
    assert search.name == "exact"
    rows, _ = search.search(vectors[:1] + 1, 5, 1, 2001, [NONE], None)
    assert rows[0].tolist() == brute_force(vectors[0] + 1, vectors, 5, 1, 2001, set(), None)
    with pytest.raises(MissingDependencyError, match=r"needs hnswlib .*pip install 'llmcdsr-lite\[hnsw\]'"):
        make_search("hnsw", vectors, DOMAINS, 1)
