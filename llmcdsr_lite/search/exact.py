"""The best items for a user representation, exactly; `hnsw` finds them approximately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import MissingDependencyError
from llmcdsr_lite.search.rescoring import Rows as Rows
from llmcdsr_lite.search.rescoring import Scores as Scores
from llmcdsr_lite.search.rescoring import best_of_reached

if TYPE_CHECKING:
    from llmcdsr_lite.search.hnsw import SearchGraph

SearchName = Literal["auto", "exact", "hnsw"]
AUTO_HNSW_ITEMS = 300_000  # where the two are as fast, see benchmarks/large_catalogue.py
_CHUNK_SCORES = 1 << 20  # scores in memory at a time: 4 MB, which stay in the cache
_CHUNK_ROWS = 1 << 13  # item vectors in float64 at a time
_LARGE = 1e37  # far from where float32 ends
GROUP = 16  # columns in a group of `lower_bound`


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
        self.item_vectors = np.asarray(item_vectors)  # a memory map is slower to index
        self._longest: float | None = None

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
        rows, values = nothing(len(users), k)
        k = min(k, len(vectors))
        size = max(1, _CHUNK_SCORES // max(1, len(vectors)))
        for first in range(0, len(users) if k else 0, size):
            chunk = slice(first, min(first + size, len(users)))
            scores, error = self._scores(users[chunk], vectors)
            if bonus is not None:
                bonus.add(scores, chunk, np.arange(start, stop) if candidates is None else candidates)
            block(scores, blocked[chunk], candidates, start, stop, -np.inf)
            if bonus is not None:
                columns, best = top_k(scores, k)
                found = columns + start if candidates is None else candidates[columns]
                rows[chunk, :k] = np.where(best > -np.inf, found, 0)
                values[chunk, :k] = best
                continue
            reach = np.maximum(lower_bound(scores, k) - 2 * error, np.finfo(scores.dtype).min)
            reached = scores >= reach[:, None].astype(scores.dtype)
            of = start if candidates is None else candidates
            exact = users[chunk].astype(np.float64)
            rows[chunk, :k], values[chunk, :k] = best_of_reached(self.item_vectors, exact, reached, of, k)
        return rows, values

    def _scores(
        self, users: npt.NDArray[np.floating[Any]], vectors: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.float64]]:
        """Products (n, m), and how far they can be from exact scores (n,)."""
        if self._longest is None:  # two threads may both do this: they do the same
            self._longest = longest(self.item_vectors)
        lengths = np.sqrt(np.einsum("nh,nh->n", users, users, dtype=np.float64))
        bound = lengths * self._longest  # no score is larger
        if (bound > _LARGE).any():  # sums could overflow
            scores: npt.NDArray[np.floating[Any]] = users.astype(np.float64) @ vectors.astype(np.float64).T
        else:
            scores = users @ vectors.T
        # H roundings, each of half an epsilon, in any order; one more for the result, one to be safe;
        # and what is lost where numbers below the normal ones are flushed to zero
        n_roundings = users.shape[1] + 2
        return scores, n_roundings * (np.finfo(np.float32).eps / 2 * bound * 1.01 + 2e-38)


def make_search(
    name: SearchName,
    item_vectors: npt.NDArray[np.float32],
    domains: tuple[Domain, ...],
    threads: int,
    *,
    scan: bool = False,
    graph: SearchGraph | None = None,
) -> Search:
    """Make the search of that name; ``auto`` takes hnswlib for large catalogues where it is installed.

    With `scan`, an exact search looks at all items in 8 bits first, where onnxruntime is installed. Without
    `graph`, approximate search builds its own.
    """
    from llmcdsr_lite.search.hnsw import HnswSearch  # which searches exactly where the graph does not reach
    from llmcdsr_lite.search.two_pass import TwoPassSearch  # which searches exactly what it cannot scan

    if name == "hnsw":
        return HnswSearch(item_vectors, domains, threads, graph)
    if name == "auto" and len(item_vectors) > AUTO_HNSW_ITEMS:
        try:
            return HnswSearch(item_vectors, domains, threads, graph)
        except MissingDependencyError:
            pass  # no compiler, no hnswlib: exact search gives the same answers, later
    if scan:
        try:
            return TwoPassSearch(item_vectors, domains, threads)
        except (ImportError, ValueError):
            pass  # the same answers, later
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
    reach = lower_bound(scores, k)
    for i in range(n):
        reached = np.flatnonzero(scores[i] >= reach[i])
        order = np.argsort(-scores[i, reached], kind="stable")[:k]
        columns[i] = reached[order]
    return columns, np.take_along_axis(scores, columns, axis=1).astype(np.float32, copy=False)


def lower_bound(scores: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
    """A value for every row that at least k of its scores reach, and few more: (n,).

    The k-th highest of the highest scores of groups of columns is one, and ten times faster to find than
    the k-th highest score itself.
    """
    n, m = scores.shape
    n_groups = m // GROUP
    highest = scores
    if n_groups >= k:
        highest = scores[:, : n_groups * GROUP].reshape(n, GROUP, n_groups).max(axis=1)
    place = highest.shape[1] - k
    return np.partition(highest, place, axis=1)[:, place]


def block(
    scores: npt.NDArray[Any],
    blocked: Sequence[Rows],
    candidates: Rows | None,
    start: int,
    stop: int,
    lowest: float,
) -> None:
    """Set the scores (n, m) of each user's blocked rows to the lowest, in place."""
    if candidates is not None:
        for i, forbidden in enumerate(blocked):
            scores[i, np.isin(candidates, forbidden)] = lowest
        return
    for i, forbidden in enumerate(blocked):
        if len(forbidden):
            scores[i, forbidden[(forbidden >= start) & (forbidden < stop)] - start] = lowest


def nothing(n: int, k: int) -> tuple[Rows, Scores]:
    """Rows and scores (n, k) where nothing was found."""
    return np.zeros((n, k), dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)


def longest(vectors: npt.NDArray[np.float32]) -> float:
    """Length of the longest vector."""
    parts = (vectors[n : n + _CHUNK_ROWS] for n in range(0, len(vectors), _CHUNK_ROWS))
    return max(float(np.sqrt(np.einsum("nh,nh->n", p, p, dtype=np.float64).max())) for p in parts)
