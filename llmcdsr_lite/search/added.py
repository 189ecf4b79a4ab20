"""Search where items were added to a catalogue: the old ones by the graph that there is, the new exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search.bonus import SparseBonus
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter, Rows, Scores, Search
from llmcdsr_lite.search.rescoring import best_with_bonuses

Domains = tuple[Domain, ...]


class AddedSearch:
    """The search of the catalogue before items were added, and the added items beside it.

    Parameters
    ----------
    base : Search
        Over the old rows.
    before, after : tuple of Domain
        The domains then and now: every one begins with its old items, in their order.
    item_vectors : float32 array (items + 1, H)
        Of all items.
    """

    def __init__(
        self, base: Search, before: Domains, after: Domains, item_vectors: npt.NDArray[np.float32]
    ) -> None:
        self.name = base.name
        self.base = base
        self.before = before
        self._after = after
        self._moved = np.array([new.start - old.start for old, new in zip(before, after, strict=True)])
        self._old_stops = np.array([domain.stop for domain in before])
        self._starts = [[domain.start for domain in domains] for domains in (before, after)]
        self._added = np.concatenate(
            [np.arange(new.start + old.n_items, new.stop) for old, new in zip(before, after, strict=True)]
        )
        self._exact = ExactSearch(item_vectors)

    def search(
        self,
        users: npt.NDArray[np.floating[Any]],
        k: int,
        wanted: RowFilter,
        bonuses: Sequence[SparseBonus | None] | None = None,
    ) -> tuple[Rows, Scores]:
        """See `Search.search`; what bonuses touch is scored beside what is found by dot product alone."""
        start, stop, blocked, allowed = wanted.start, wanted.stop, wanted.blocked, wanted.allowed
        if bonuses is not None and any(bonus is not None for bonus in bonuses):
            if allowed is not None:
                return self._exact.search(users, k, wanted, bonuses)
            ranges = [(max(start, d.start), min(stop, d.stop)) for d in self._after]
            filters = [RowFilter(first, last, blocked) for first, last in ranges if first < last]
            found = np.concatenate([self.search(users, k, part)[0] for part in filters], axis=1)
            exact_users = users.astype(np.float64)
            return best_with_bonuses(self._exact.item_vectors, exact_users, found, k, wanted, bonuses)
        old = RowFilter(
            self._old_place(start),
            self._old_place(stop),
            [self._old(rows) for rows in blocked],
            None if allowed is None else self._old(allowed),
        )
        rows, scores = self.base.search(users, k, old)
        rows = rows + np.where(rows > 0, self._moved[self._domain_of(rows, self._starts[0])], 0)
        added = self._added if allowed is None else self._added[np.isin(self._added, allowed)]
        more_rows, more_scores = self._exact.search(users, k, replace(wanted, allowed=added))
        all_rows = np.concatenate([rows, more_rows], axis=1)  # (n, 2 k)
        all_scores = np.concatenate([scores, more_scores], axis=1)
        best = np.lexsort((all_rows, -all_scores), axis=1)[:, :k]  # ties by row
        # padding has row 0, before all others, but scores lower than any of them
        return np.take_along_axis(all_rows, best, axis=1), np.take_along_axis(all_scores, best, axis=1)

    def _old(self, rows: Rows) -> Rows:
        """Rows of the old catalogue, of those that it had; in the same order."""
        domains = self._domain_of(rows, self._starts[1])
        old = rows - self._moved[domains]
        found: Rows = old[old < self._old_stops[domains]]
        return found

    def _old_place(self, bound: int) -> int:
        """The bound of a range of rows in the old catalogue."""
        domain = int(self._domain_of(np.array(bound), self._starts[1]))
        return int(min(bound - self._moved[domain], self._old_stops[domain]))

    @staticmethod
    def _domain_of(rows: Rows, starts: list[int]) -> Rows:
        return np.maximum(np.searchsorted(starts, rows, side="right") - 1, 0)


def beside(
    search: Search, before: Domains, after: Domains, item_vectors: npt.NDArray[np.float32]
) -> AddedSearch:
    """The search of a catalogue to which items were added, once or again."""
    if isinstance(search, AddedSearch):
        return AddedSearch(search.base, search.before, after, item_vectors)
    return AddedSearch(search, before, after, item_vectors)
