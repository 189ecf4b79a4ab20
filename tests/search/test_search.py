from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import MissingDependencyError
from llmcdsr_lite.search import choice, exact
from llmcdsr_lite.search.choice import make_search
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter
from llmcdsr_lite.search.top_k import top_k

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
@settings(max_examples=3 * settings().max_examples)
def test_top_k_is_a_full_sort(scores: npt.NDArray[np.float32], k: int) -> None:
    columns, values = top_k(scores, k)
    assert columns.shape == values.shape == (len(scores), min(k, scores.shape[1]))
    for row, found, best in zip(scores.tolist(), columns.tolist(), values.tolist(), strict=True):
        assert found == full_sort(row, k)
        assert best == [row[i] for i in found]


@given(st.data())
@settings(max_examples=2 * settings().max_examples)
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
        RowFilter(
            start,
            stop,
            [np.array(b, dtype=np.int64) for b in blocked],
            None if allowed is None else np.array(sorted(allowed), dtype=np.int64),
        ),
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
    monkeypatch.setattr(exact, "_CHUNK_SCORES", 40 * 5)  # five users at a time
    rows, _ = ExactSearch(vectors).search(users, 7, RowFilter(1, 41, blocked))
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
        rows, _ = search.search(users, 4, RowFilter(1, 50, [NONE, NONE]))
        assert rows.tolist() == [brute_force(u, vectors, 4, 1, 50, set(), None) for u in users]


@pytest.mark.skipif(find_spec("hnswlib") is None, reason="hnswlib is not installed (it needs a compiler)")
def test_auto_takes_hnsw_for_large_catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(size=(2001, 16)).astype(np.float32)
    assert make_search("auto", vectors, DOMAINS, 1).name == "exact"
    assert make_search("hnsw", vectors, DOMAINS, 1).name == "hnsw"
    monkeypatch.setattr(choice, "AUTO_HNSW_ITEMS", 2000)
    assert make_search("auto", vectors, DOMAINS, 1).name == "hnsw"
    assert make_search("exact", vectors, DOMAINS, 1).name == "exact"


def test_without_hnswlib_auto_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    monkeypatch.setattr(choice, "AUTO_HNSW_ITEMS", 10)
    vectors = np.random.default_rng(1).normal(size=(2001, 4)).astype(np.float32)
    search = make_search("auto", vectors, DOMAINS, 1)
    assert search.name == "exact"
    rows, _ = search.search(vectors[:1] + 1, 5, RowFilter(1, 2001, [NONE]))
    assert rows[0].tolist() == brute_force(vectors[0] + 1, vectors, 5, 1, 2001, set(), None)
    with pytest.raises(MissingDependencyError, match=r"needs hnswlib .*pip install 'llmcdsr-lite\[hnsw\]'"):
        make_search("hnsw", vectors, DOMAINS, 1)
