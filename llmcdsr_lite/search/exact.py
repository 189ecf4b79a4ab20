"""The best items for a user representation, exactly; `hnsw` finds them approximately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.search.bonus import SparseBonus
from llmcdsr_lite.search.protocol import RowFilter, Rows, Scores
from llmcdsr_lite.search.rescoring import best_of_reached
from llmcdsr_lite.search.top_k import block, lower_bound, nothing, top_k

_CHUNK_SCORES = 1 << 20  # scores in memory at a time: 4 MB, which stay in the cache
_CHUNK_ROWS = 1 << 13  # item vectors in float64 at a time
_LARGE = 1e37  # far from where float32 ends


class DenseBonus(Protocol):
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
        wanted: RowFilter,
        bonuses: Sequence[SparseBonus | None] | None = None,
        dense: DenseBonus | None = None,
    ) -> tuple[Rows, Scores]:
        """See `Search.search`; `dense` is added to the dot products, too."""
        start, stop, allowed = wanted.start, wanted.stop, wanted.allowed
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
            some = None if bonuses is None else bonuses[chunk]
            for i, bonus in enumerate(some or ()):
                if bonus is not None:
                    bonus.add(scores[i], start, stop, candidates)
                    error[i] += 2 * np.finfo(np.float32).eps * bonus.largest
            if dense is not None:
                dense.add(scores, chunk, np.arange(start, stop) if candidates is None else candidates)
            block(scores, wanted.of_users(chunk), candidates, -np.inf)
            if dense is not None:
                columns, best = top_k(scores, k)
                found = columns + start if candidates is None else candidates[columns]
                rows[chunk, :k] = np.where(best > -np.inf, found, 0)
                values[chunk, :k] = best
                continue
            reach = np.maximum(lower_bound(scores, k) - 2 * error, np.finfo(scores.dtype).min)
            reached = scores >= reach[:, None].astype(scores.dtype)
            of = start if candidates is None else candidates
            exact = users[chunk].astype(np.float64)
            rows[chunk, :k], values[chunk, :k] = best_of_reached(
                self.item_vectors, exact, reached, of, k, some
            )
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


def longest(vectors: npt.NDArray[np.float32]) -> float:
    """Length of the longest vector."""
    parts = (vectors[n : n + _CHUNK_ROWS] for n in range(0, len(vectors), _CHUNK_ROWS))
    return max(float(np.sqrt(np.einsum("nh,nh->n", p, p, dtype=np.float64).max())) for p in parts)
