"""Exact search in two passes: a scan in 8 bits, then exact scores of the items that can be among the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search.bonus import SparseBonus
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter, Rows, Scores
from llmcdsr_lite.search.rescoring import best_of_reached
from llmcdsr_lite.search.scan import Scan
from llmcdsr_lite.search.top_k import GROUP, block, lower_bound, nothing

_CHUNK_SCORES = 1 << 20  # whole numbers in memory at a time: 4 MB
_LOWEST = np.iinfo(np.int32).min  # no product comes near
# so many candidates, or one item in so many, cost less than a product in float32 with all items
_FEW, _SHARE = 1000, 32
_FEW_ALLOWED = 8  # one item in so many, or fewer: scoring these alone costs less than a scan of all

Bonuses = Sequence[SparseBonus | None] | None


class TwoPassSearch:
    """Every item is scored roughly, and exactly where it matters: the answers are those of `ExactSearch`.

    An item can be among the k best if its rough score comes within two errors of the k-th best rough score.
    Searches with a short allow list, for a large part of the items, or where the scan tells too few items
    from the rest, are left to `ExactSearch`.

    Parameters
    ----------
    item_vectors : float32 array (items + 1, H)
    domains : tuple of Domain
    threads : int

    Raises
    ------
    ImportError, ValueError
        As `Scan`.
    """

    name = "exact"

    def __init__(
        self, item_vectors: npt.NDArray[np.float32], domains: tuple[Domain, ...], threads: int
    ) -> None:
        self._exact = ExactSearch(item_vectors)
        self._scan = Scan(item_vectors, domains, threads)

    def search(
        self,
        users: npt.NDArray[np.floating[Any]],
        k: int,
        wanted: RowFilter,
        bonuses: Bonuses = None,
    ) -> tuple[Rows, Scores]:
        """See `Search.search`."""
        start, stop, allowed = wanted.start, wanted.stop, wanted.allowed
        n_items = stop - start
        n_left, outside = n_items, None
        if allowed is not None:
            columns = allowed[slice(*allowed.searchsorted((start, stop)))] - start
            n_left, outside = len(columns), np.ones(n_items, dtype=bool)
            outside[columns] = False
        few = k * GROUP > n_left or n_left * _FEW_ALLOWED < n_items
        if few or not self._scan.covers(start, stop):
            return self._exact.search(users, k, wanted, bonuses)
        size = max(1, _CHUNK_SCORES // n_items)
        if 0 < len(users) <= size:
            return self._search_chunk(users, k, wanted, outside, bonuses)
        rows, values = nothing(len(users), k)
        for first in range(0, len(users), size):
            chunk = slice(first, first + size)
            some = None if bonuses is None else bonuses[chunk]
            found = self._search_chunk(users[chunk], k, wanted.of_users(chunk), outside, some)
            rows[chunk], values[chunk] = found
        return rows, values

    def _search_chunk(
        self,
        users: npt.NDArray[np.floating[Any]],
        k: int,
        wanted: RowFilter,
        outside: npt.NDArray[np.bool_] | None,
        bonuses: Bonuses,
    ) -> tuple[Rows, Scores]:
        """As `search`; `outside` are the columns (items,) that nobody may get."""
        start, stop = wanted.start, wanted.stop
        exact = users.astype(np.float64)
        scores, error, unit = self._scan.scores(exact, start, stop)  # (n, items)
        for i, bonus in enumerate(bonuses or ()):
            if bonus is not None:
                error[i] += bonus.add_whole(scores[i], start, stop, unit[i])
        block(scores, wanted, None, _LOWEST)
        if outside is not None:
            np.copyto(scores, _LOWEST, where=outside)
        # at least k items reach the bound, so the k-th best score is at most an error below it
        reach = np.maximum(lower_bound(scores, k) - 2 * error - 1, _LOWEST + 1).astype(np.int32)
        reached = scores >= reach[:, None]
        few = max(_FEW, (stop - start) // _SHARE)
        if np.count_nonzero(reached) <= few * len(users):
            return best_of_reached(self._exact.item_vectors, exact, reached, start, k, bonuses)
        many = reached.sum(axis=1) > few
        reached[many] = False
        rows, values = best_of_reached(self._exact.item_vectors, exact, reached, start, k, bonuses)
        left = many.nonzero()[0].tolist()
        some = None if bonuses is None else [bonuses[i] for i in left]
        of_left = replace(wanted, blocked=[wanted.blocked[i] for i in left])
        found = self._exact.search(users[left], k, of_left, some)
        rows[left], values[left] = found
        return rows, values
