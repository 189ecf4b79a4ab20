"""The sparse experts of the mix at request time: what they add to the scores of a history."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from llmcdsr_lite.catalogue import Catalogue, Domain, Ranges, joined_ranges
from llmcdsr_lite.mix.experts import NextCounts, sparse_experts, weighed_experts
from llmcdsr_lite.mix.weights import EXPERTS, N_SPARSE, DomainMix, ExpertWeights
from llmcdsr_lite.search.bonus import SparseBonus
from llmcdsr_lite.search.protocol import Rows

Mixes = tuple[DomainMix, ...]  # of each target domain
_NO_ROWS, _NO_AMOUNTS = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)


class Mixture:
    """Amounts that the sparse experts of the mix, and offsets, add to scores.

    Parameters
    ----------
    catalogue : Catalogue
    mixes : tuple of DomainMix
        Of each domain.
    counts : NextCounts or None
    """

    def __init__(self, catalogue: Catalogue, mixes: Mixes, counts: NextCounts | None) -> None:
        self._domains = catalogue.domains
        self._starts = [domain.start for domain in catalogue.domains]
        self._mixes = mixes
        # a memory map is slower to index
        self._counts = counts and NextCounts(*map(np.asarray, (counts.starts, counts.rows, counts.weights)))
        self._is_zero = not any(any(w.sparse) for mix in mixes for w in (mix.warm, mix.cold))
        self.has_popular = any(mix.cold.popular for mix in mixes)
        self._has_offsets = any(mix.offset or mix.offset_last for mix in mixes)

    def bonus(self, history: Rows, start: int, stop: int) -> SparseBonus | None:
        """Amounts added to the scores of the rows ``start <= row < stop`` after a history; None for nothing.

        Where they are those of several domains, each one's scores are shifted by how much its offset is above
        that of the first.
        """
        if self._is_zero and not self._has_offsets:
            return None
        within = self._within(start, stop)
        if len(within) == 1:
            return None if self._is_zero else self._of_domain(history, within[0])
        parts = [self._of_domain(history, index) for index in within]
        rows = np.concatenate([part.rows for part in parts])
        amounts = np.concatenate([part.amounts for part in parts])
        base = self.offset(history, start)
        shifts = []
        for index in within[1:]:
            domain = self._domains[index]
            shift = self.offset(history, domain.start) - base
            if shift:
                shifts.append((domain.start, domain.stop, shift))
        return SparseBonus(rows, amounts, tuple(shifts))

    def popular(self, history: Rows, start: int, stop: int) -> dict[Domain, float]:
        """Weight of popularity after a history, in each domain of ``start <= row < stop`` with one."""
        if not self.has_popular:
            return {}
        weights = {self._domains[i]: self._weights(history, i).popular for i in self._within(start, stop)}
        return {domain: weight for domain, weight in weights.items() if weight}

    def offset(self, history: Rows, row: int) -> float:
        """Offset of the domain of a row after a history."""
        index = self._index(row)
        domain, mix = self._domains[index], self._mixes[index]
        last = int(history[-1]) if len(history) else 0
        return mix.offset + mix.offset_last * (domain.start <= last < domain.stop)

    def shares(self, history: Rows, row: int, start: int, stop: int) -> dict[str, float]:
        """Amount that each sparse expert adds to the score of a row, and the offset of its domain.

        The offset counts where the rows ``start <= row < stop`` that are asked for are of several domains.
        """
        index = self._index(row)
        weights = self._weights(history, index)
        rows, values = sparse_experts(history, index, self._domains, self._counts)
        place = np.flatnonzero(rows == row)
        found = np.zeros(N_SPARSE) if not len(place) else values[place[0]] * np.array(weights.sparse)
        shares = dict(zip(EXPERTS[:N_SPARSE], found.tolist(), strict=True))
        if len(self._within(start, stop)) > 1:
            shares["offset"] = self.offset(history, row) - self.offset(history, start)
        return shares

    def _within(self, start: int, stop: int) -> range:
        """Which domains have rows ``start <= row < stop``."""
        return range(self._index(start), self._index(stop - 1) + 1)

    def _index(self, row: int) -> int:
        """Which domain a row is of."""
        return bisect_right(self._starts, row) - 1

    def _weights(self, history: Rows, index: int) -> ExpertWeights:
        domain, mix = self._domains[index], self._mixes[index]
        warm = bool(((history >= domain.start) & (history < domain.stop)).any())
        return mix.warm if warm else mix.cold

    def _of_domain(self, history: Rows, index: int) -> SparseBonus:
        weights = self._weights(history, index)
        if not any(weights.sparse):
            return SparseBonus(_NO_ROWS, _NO_AMOUNTS)
        counts = self._counts if weights.next else None
        return SparseBonus(*weighed_experts(history, index, self._domains, counts, weights))


def seen_rows(mixes: Mixes, catalogue: Catalogue) -> Ranges:
    """Ranges of rows of which a history's items are left out by default."""
    return joined_ranges(d for d, mix in zip(catalogue.domains, mixes, strict=True) if mix.exclude_seen)
