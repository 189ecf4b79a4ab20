"""The best items for a user representation, exactly; `hnsw` finds them approximately."""

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


def make_search(
    name: SearchName, item_vectors: npt.NDArray[np.float32], domains: tuple[Domain, ...], threads: int
) -> Search:
    """Make the search of that name; ``auto`` takes hnswlib for large catalogues where it is installed."""
    from llmcdsr_lite.hnsw import HnswSearch  # which searches exactly where the graph does not reach

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
