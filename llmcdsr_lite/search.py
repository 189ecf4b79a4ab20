"""The best items for a user representation: exact, or approximate with hnswlib in very large catalogues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import MissingDependencyError

SearchName = Literal["auto", "exact", "hnsw"]
AUTO_HNSW_ITEMS = 100_000  # below, the exact product is fast enough
_CHUNK_SCORES = 1 << 22  # scores in memory at a time: 16 MB
_GROUP = 32  # columns in a group of `_lower_bound`

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


class Search(Protocol):
    """What finds items."""

    name: str

    def search(
        self,
        users: npt.NDArray[np.floating[Any]],
        k: int,
        start: int,
        stop: int,
        blocked: Sequence[Rows],
        allowed: Rows | None,
    ) -> tuple[Rows, Scores]:
        """The k items with the highest dot product for every user.

        Parameters
        ----------
        users : float array (n, H)
        k : int
        start, stop : int
            Item rows to search, ``start <= row < stop``.
        blocked : sequence of n int64 arrays
            Rows that each user must not get.
        allowed : int64 array, optional
            The only rows that any user may get, sorted and distinct.

        Returns
        -------
        rows : int64 array (n, k)
            Best first, ties by row; 0 where there are fewer than k.
        scores : float32 array (n, k)
            ``-inf`` where there is no item.
        """


class Bonus(Protocol):
    """What adds to the scores of some items."""

    def add(self, scores: npt.NDArray[Any], chunk: slice, rows: Rows) -> None:
        """Add to the scores (users of the chunk, m) of the item rows (m,), in place."""


class ExactSearch:
    """Every item is scored.

    Parameters
    ----------
    item_vectors : float32 array (items + 1, H)
    """

    name = "exact"

    def __init__(self, item_vectors: npt.NDArray[np.float32]) -> None:
        self.item_vectors = item_vectors

    def search(
        self,
        users: npt.NDArray[np.floating[Any]],
        k: int,
        start: int,
        stop: int,
        blocked: Sequence[Rows],
        allowed: Rows | None,
        bonus: Bonus | None = None,
    ) -> tuple[Rows, Scores]:
        """See `Search.search`; `bonus` is added to the dot products."""
        if allowed is None:
            candidates, vectors = None, self.item_vectors[start:stop]
        else:
            candidates = allowed[np.searchsorted(allowed, start) : np.searchsorted(allowed, stop)]
            vectors = self.item_vectors[candidates]
        rows, values = _nothing(len(users), k)
        size = max(1, _CHUNK_SCORES // max(1, len(vectors)))
        for first in range(0, len(users), size):
            chunk = slice(first, min(first + size, len(users)))
            scores = users[chunk] @ vectors.T  # (chunk, candidates)
            if bonus is not None:
                bonus.add(scores, chunk, np.arange(start, stop) if candidates is None else candidates)
            for i, forbidden in enumerate(blocked[chunk]):
                scores[i, _columns(forbidden, candidates, start, stop)] = -np.inf
            columns, best = top_k(scores, k)
            n_found = columns.shape[1]
            found = columns + start if candidates is None else candidates[columns]
            rows[chunk, :n_found] = np.where(best > -np.inf, found, 0)
            values[chunk, :n_found] = best
        return rows, values


class HnswSearch:
    """Approximate search in a graph of neighbours (hnswlib), one index a domain, built in memory.

    Searches with an allow list, and those for which the graph finds too few items, are answered exactly.

    Parameters
    ----------
    item_vectors : float32 array (items + 1, H)
    domains : tuple of Domain
    threads : int

    Raises
    ------
    MissingDependencyError
        If hnswlib is not installed.
    """

    name = "hnsw"
    _LINKS, _BUILD_WIDTH, _SEARCH_WIDTH = 16, 200, 128

    def __init__(
        self, item_vectors: npt.NDArray[np.float32], domains: tuple[Domain, ...], threads: int
    ) -> None:
        try:
            import hnswlib
        except ImportError as error:
            raise MissingDependencyError(
                f"search 'hnsw' needs hnswlib ({error}): pip install 'llmcdsr-lite[hnsw]' (it compiles), "
                "or use search='exact'"
            ) from None
        self._exact = ExactSearch(item_vectors)
        self._indexes = []
        for domain in domains:
            index = hnswlib.Index(space="ip", dim=item_vectors.shape[1])
            index.init_index(domain.n_items, ef_construction=self._BUILD_WIDTH, M=self._LINKS, random_seed=0)
            index.set_num_threads(threads)
            index.set_ef(self._SEARCH_WIDTH)  # once: searches of several threads share the index
            labels = np.arange(domain.start, domain.stop)
            index.add_items(item_vectors[domain.start : domain.stop], labels)
            self._indexes.append((domain, index))

    def search(
        self,
        users: npt.NDArray[np.floating[Any]],
        k: int,
        start: int,
        stop: int,
        blocked: Sequence[Rows],
        allowed: Rows | None,
    ) -> tuple[Rows, Scores]:
        """See `Search.search`."""
        if allowed is not None or not len(users):
            return self._exact.search(users, k, start, stop, blocked, allowed)
        wanted = k + max(map(len, blocked))
        found_rows, found_scores = [], []
        for domain, index in self._indexes:
            if start <= domain.start and domain.stop <= stop:
                n = min(2 * wanted, domain.n_items)  # also the width of the search: twice as many as needed
                try:
                    labels, distances = index.knn_query(users, k=n)
                except RuntimeError:  # the graph does not reach so many items
                    return self._exact.search(users, k, start, stop, blocked, None)
                found_rows.append(labels.astype(np.int64))
                found_scores.append(1 - distances)
        rows, scores = np.concatenate(found_rows, axis=1), np.concatenate(found_scores, axis=1)
        for i, forbidden in enumerate(blocked):
            scores[i, np.isin(rows[i], forbidden)] = -np.inf
        columns, best = top_k(scores, k)
        if best.shape[1] < k or np.isneginf(best).any():
            return self._exact.search(users, k, start, stop, blocked, None)
        return np.take_along_axis(rows, columns, axis=1), best


def make_search(
    name: SearchName, item_vectors: npt.NDArray[np.float32], domains: tuple[Domain, ...], threads: int
) -> Search:
    """Make the search of that name; ``auto`` takes hnswlib for large catalogues where it is installed."""
    if name == "hnsw":
        return HnswSearch(item_vectors, domains, threads)
    if name == "auto" and len(item_vectors) > AUTO_HNSW_ITEMS:
        try:
            return HnswSearch(item_vectors, domains, threads)
        except MissingDependencyError:
            pass  # no compiler, no hnswlib: exact search gives the same answers, later
    return ExactSearch(item_vectors)


def top_k(scores: npt.NDArray[Any], k: int) -> tuple[Rows, Scores]:
    """Columns and values of the k highest scores of every row, highest first, ties by column.

    Parameters
    ----------
    scores : float array (n, m)
    k : int

    Returns
    -------
    columns : int64 array (n, min(k, m))
    values : float32 array (n, min(k, m))
    """
    n, m = scores.shape
    k = min(k, m)
    columns = np.empty((n, k), dtype=np.int64)
    if k == 0:
        return columns, columns.astype(np.float32)
    lower_bound = _lower_bound(scores, k)
    for i in range(n):
        reached = np.flatnonzero(scores[i] >= lower_bound[i])
        order = np.argsort(-scores[i, reached], kind="stable")[:k]
        columns[i] = reached[order]
    return columns, np.take_along_axis(scores, columns, axis=1).astype(np.float32, copy=False)


def _lower_bound(scores: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
    """A value for every row that at least k of its scores reach, and few more: (n,).

    The k-th highest of the highest scores of groups of columns is one, and ten times faster to find than
    the k-th highest score itself.
    """
    n, m = scores.shape
    n_groups = m // _GROUP
    if n_groups < k:
        highest = scores
    else:
        highest = scores[:, : n_groups * _GROUP].reshape(n, _GROUP, n_groups).max(axis=1)
    place = highest.shape[1] - k
    return np.partition(highest, place, axis=1)[:, place]


def _nothing(n: int, k: int) -> tuple[Rows, Scores]:
    return np.zeros((n, k), dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)


def _columns(forbidden: Rows, candidates: Rows | None, start: int, stop: int) -> Rows:
    """Columns of the forbidden rows among those that are scored."""
    if candidates is None:
        return forbidden[(forbidden >= start) & (forbidden < stop)] - start
    return np.flatnonzero(np.isin(candidates, forbidden))
