from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search.bonus import SparseBonus
from llmcdsr_lite.search.hnsw import HnswSearch, SearchGraph
from llmcdsr_lite.search.hnsw_graph import GraphSettings, build_graph
from llmcdsr_lite.search.protocol import RowFilter

pytest.importorskip("hnswlib", reason="hnswlib is not installed (it needs a compiler)")

NONE = np.zeros(0, dtype=np.int64)
DOMAINS = (Domain("a", 1, 801), Domain("b", 801, 2001))


def best_rows(
    user: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
    k: int,
    start: int,
    stop: int,
    blocked: Iterable[int] = (),
) -> list[int]:
    """Sort every row by its score."""
    forbidden = set(blocked)
    rows = [row for row in range(start, stop) if row not in forbidden]
    scores = (vectors[rows].astype(np.float64) * user).sum(axis=1).tolist()
    return [row for _, row in sorted(zip([-score for score in scores], rows, strict=True))[:k]]


@pytest.fixture(scope="module")
def vectors() -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(1).normal(size=(2001, 16)).astype(np.float32)
    vectors *= np.random.default_rng(2).lognormal(0, 0.5, size=(2001, 1)).astype(np.float32)  # long and short
    vectors[0] = 0
    return vectors


@pytest.fixture(scope="module")
def hnsw(vectors: npt.NDArray[np.float32]) -> HnswSearch:
    return HnswSearch(vectors, DOMAINS, 1)


@pytest.fixture
def inexact(hnsw: HnswSearch, monkeypatch: pytest.MonkeyPatch) -> HnswSearch:
    """The search, which fails where it would answer exactly."""
    monkeypatch.setattr(hnsw, "_exact", None)
    return hnsw


@pytest.mark.parametrize(("start", "stop"), [(1, 2001), (1, 801), (801, 2001)])
def test_recall_with_filters(
    inexact: HnswSearch, vectors: npt.NDArray[np.float32], start: int, stop: int
) -> None:
    users = np.random.default_rng(2).normal(size=(60, 16)).astype(np.float32)
    every_score = users.astype(np.float64) @ vectors.astype(np.float64).T
    # the best items of each user are forbidden, so that a filter after the search has to look further
    blocked = [np.argsort(-every_score[i])[: i % 40] for i in range(60)]
    rows, scores = inexact.search(users, 10, RowFilter(start, stop, blocked))
    assert rows.shape == (60, 10)
    assert rows.dtype == np.int64
    hits = 0
    for i in range(60):
        found = rows[i].tolist()
        assert len(set(found)) == 10
        assert all(start <= row < stop for row in found)
        assert not set(found) & set(blocked[i].tolist())
        np.testing.assert_allclose(scores[i], every_score[i, found], atol=1e-4)
        assert (np.diff(scores[i]) <= 0).all()
        hits += len(set(found) & set(best_rows(users[i], vectors, 10, start, stop, blocked[i].tolist())))
    assert hits / 600 >= 0.95


def test_one_at_a_time(inexact: HnswSearch, vectors: npt.NDArray[np.float32]) -> None:
    items = vectors[1:50]
    hits = 0
    for i in range(49):
        rows, _ = inexact.search(items[i : i + 1], 10, RowFilter(1, 2001, [np.array([i + 1])]))
        hits += len(set(rows[0].tolist()) & set(best_rows(items[i], vectors, 10, 1, 2001, [i + 1])))
    assert hits / 490 >= 0.95


def test_an_allow_list_is_searched_exactly(hnsw: HnswSearch, vectors: npt.NDArray[np.float32]) -> None:
    allowed = np.array([5, 700, 900, 901, 1500])
    rows, _ = hnsw.search(vectors[7:8], 4, RowFilter(801, 2001, [np.array([901])], allowed))
    expected = [row for row in best_rows(vectors[7], vectors, 2000, 801, 2001) if row in (900, 1500)]
    assert rows[0].tolist() == [*expected, 0, 0]


@pytest.mark.parametrize("k", [60, 150, 700, 797, 800, 2000, 3000])
def test_many_items(hnsw: HnswSearch, vectors: npt.NDArray[np.float32], k: int) -> None:
    rows, scores = hnsw.search(vectors[7:8], k, RowFilter(1, 801, [np.array([1, 2, 3])]))
    expected = best_rows(vectors[7], vectors, k, 1, 801, [1, 2, 3])
    assert rows.shape == scores.shape == (1, k)
    found = set(rows[0].tolist()) - {0}
    assert len(found) == (scores[0] > -np.inf).sum() == min(k, 797)
    assert len(found & set(expected)) >= 0.97 * len(expected)


@pytest.mark.parametrize(("start", "stop"), [(1, 500), (700, 900), (801, 2000), (2, 2001)])
def test_parts_of_domains(hnsw: HnswSearch, vectors: npt.NDArray[np.float32], start: int, stop: int) -> None:
    rows, _ = hnsw.search(vectors[7:8], 9, RowFilter(start, stop, [NONE]))
    assert rows[0].tolist() == best_rows(vectors[7], vectors, 9, start, stop)


def test_everything_is_blocked_but_a_few(hnsw: HnswSearch, vectors: npt.NDArray[np.float32]) -> None:
    blocked = np.arange(4, 801)
    rows, scores = hnsw.search(vectors[7:8], 5, RowFilter(1, 801, [blocked]))
    assert rows[0].tolist() == [*best_rows(vectors[7], vectors, 3, 1, 4), 0, 0]
    assert np.isneginf(scores[0, 3:]).all()


def test_items_that_are_all_alike() -> None:
    vectors = np.ones((2001, 4), dtype=np.float32)
    for k in (10, 900):
        rows, scores = HnswSearch(vectors, DOMAINS, 1).search(
            vectors[:2], k, RowFilter(1, 2001, [NONE, NONE])
        )
        assert [len(set(r)) for r in rows.tolist()] == [k, k]
        assert (scores == 4).all()


def test_items_without_a_vector() -> None:
    vectors = np.zeros((2001, 4), dtype=np.float32)
    vectors[1:100] = np.random.default_rng(0).normal(size=(99, 4))
    user = vectors[1:2]
    rows, scores = HnswSearch(vectors, DOMAINS, 1).search(user, 10, RowFilter(1, 2001, [NONE]))
    assert len(set(rows[0].tolist())) == 10
    np.testing.assert_allclose(scores[0], vectors[rows[0]] @ user[0], atol=1e-6)


def test_a_graph_without_links_is_answered_exactly(vectors: npt.NDArray[np.float32]) -> None:
    graph = build_graph(vectors, DOMAINS, GraphSettings())
    graph.links[:] = 0
    graph.upper[:] = 0
    rows, _ = HnswSearch(vectors, DOMAINS, 1, SearchGraph(graph, (64, 64))).search(
        vectors[7:8], 5, RowFilter(1, 2001, [NONE])
    )
    assert rows[0].tolist() == best_rows(vectors[7], vectors, 5, 1, 2001)


def test_a_graph_of_other_vectors(vectors: npt.NDArray[np.float32]) -> None:
    graph = SearchGraph(build_graph(vectors, DOMAINS, GraphSettings()), (64, 64))
    with pytest.raises(ValueError, match="a graph of 2001 rows for 2000 item vectors"):
        HnswSearch(vectors[:2000], DOMAINS, 1, graph)


def test_a_wider_search_finds_more(vectors: npt.NDArray[np.float32]) -> None:
    graph = build_graph(vectors, DOMAINS, GraphSettings(M=3))
    users = np.random.default_rng(4).normal(size=(100, 16)).astype(np.float32)
    hits = []
    for ef in (5, 200):
        search = HnswSearch(vectors, DOMAINS, 1, SearchGraph(graph, (20, 20)))
        search.set_ef_search(ef)
        found = [search.search(users[i : i + 1], 2, RowFilter(1, 2001, [NONE]))[0][0] for i in range(100)]
        expected = [best_rows(user, vectors, 2, 1, 2001) for user in users]
        hits.append(sum(len(set(a.tolist()) & set(b)) for a, b in zip(found, expected, strict=True)))
    assert hits[0] < 0.8 * hits[1]


def test_several_domains_are_searched_as_wide_as_is_said_for_them(vectors: npt.NDArray[np.float32]) -> None:
    """Where no ef is said, as wide as alone; and a domain alone never minds it."""
    graph = build_graph(vectors, DOMAINS, GraphSettings(M=3))
    users = np.random.default_rng(4).normal(size=(60, 16)).astype(np.float32)

    def found(together: int | None, start: int, stop: int) -> list[list[int]]:
        search = HnswSearch(vectors, DOMAINS, 1, SearchGraph(graph, (150, 200), ef_search_together=together))
        return search.search(users, 2, RowFilter(start, stop, [NONE] * 60))[0].tolist()

    def joined(ef: int | None) -> list[list[int]]:
        """The best of both domains, each searched alone."""
        search = HnswSearch(vectors, DOMAINS, 1, SearchGraph(graph, (150, 200)))
        if ef is not None:
            search.set_ef_search(ef)
        parts = [search.search(users, 2, RowFilter(d.start, d.stop, [NONE] * 60)) for d in DOMAINS]
        rows, scores = (np.concatenate(one, axis=1) for one in zip(*parts, strict=True))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :2]
        best: list[list[int]] = np.take_along_axis(rows, order, axis=1).tolist()
        return best

    start, stop = DOMAINS[0].start, DOMAINS[-1].stop
    assert found(None, start, stop) == joined(None)
    assert found(500, start, stop) == joined(None)  # no wider than alone
    assert found(5, start, stop) == joined(5) != joined(None)
    for domain in DOMAINS:
        assert found(5, domain.start, domain.stop) == found(None, domain.start, domain.stop)


def test_no_users(hnsw: HnswSearch) -> None:
    rows, scores = hnsw.search(np.zeros((0, 16), np.float32), 3, RowFilter(1, 2001, []))
    assert rows.shape == scores.shape == (0, 3)


def test_a_domain_of_fewer_items_than_the_width_is_searched_too(vectors: npt.NDArray[np.float32]) -> None:
    domains = (Domain("a", 1, 101), Domain("b", 101, 2001))
    search = HnswSearch(vectors, domains, 1)
    search.set_ef_search(256)
    search._exact = None  # fails where it would answer exactly
    users = np.random.default_rng(6).normal(size=(20, 16)).astype(np.float32)
    rows, _ = search.search(users, 5, RowFilter(1, 2001, [NONE] * 20))
    best = [best_rows(user, vectors, 5, 1, 2001) for user in users]
    found = sum(len(set(a) & set(b)) for a, b in zip(rows.tolist(), best, strict=True))
    assert found > 95  # of 100


def test_a_tiny_domain_leaves_the_graph_to_the_others(
    vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = (Domain("a", 1, 801), Domain("tiny", 801, 821), Domain("b", 821, 2001))
    hnsw = HnswSearch(vectors, domains, 1)
    asked: list[tuple[int, int]] = []
    exact = hnsw._exact.search

    def watched(users: Any, k: int, wanted: RowFilter, *more: Any) -> Any:
        asked.append((wanted.start, wanted.stop))
        return exact(users, k, wanted, *more)

    monkeypatch.setattr(hnsw._exact, "search", watched)
    users = np.random.default_rng(5).normal(size=(40, 16)).astype(np.float32)
    users[:20] += 3 * vectors[801:821]  # the tiny domain is among the best of these
    shift = SparseBonus(NONE, np.zeros(0, dtype=np.float32), ((801, 821, 4.0),))
    for bonuses in (None, [shift] * 40):
        scores = users.astype(np.float64) @ vectors.astype(np.float64).T
        scores[:, 801:821] += 0 if bonuses is None else 4
        blocked = [np.sort(1 + np.argsort(-scores[i, 1:])[: i % 5]) for i in range(40)]
        rows, values = hnsw.search(users, 10, RowFilter(1, 2001, blocked), bonuses)
        hits = of_tiny = 0
        for i in range(40):
            scores[i, 0] = scores[i, blocked[i]] = -np.inf
            best = np.argsort(-scores[i])[:10]
            hits += len(np.intersect1d(rows[i], best))
            of_tiny += int(((best >= 801) & (best < 821)).sum())
            np.testing.assert_allclose(values[i], scores[i, rows[i]], rtol=1e-5, atol=1e-4)
        assert hits >= 380
        assert of_tiny >= 10
    assert set(asked) == {(801, 821)}
