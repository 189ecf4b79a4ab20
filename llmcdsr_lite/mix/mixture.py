"""The sparse experts of the mix at request time: what they add to the scores of a history."""

from __future__ import annotations

import numpy as np

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.mix.experts import NextCounts, sparse_experts, weighed_experts
from llmcdsr_lite.mix.settings import EXPERTS, N_SPARSE, DomainMix, ExpertWeights
from llmcdsr_lite.search.bonus import SparseBonus
from llmcdsr_lite.search.protocol import Rows

Mixes = tuple[DomainMix, DomainMix]
_NO_ROWS, _NO_AMOUNTS = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)


class Mixture:
    """What the sparse experts of the mix, and offsets, add to scores.

    Parameters
    ----------
    catalogue : Catalogue
    mixes : tuple of two DomainMix
    counts : NextCounts or None
    """

    def __init__(self, catalogue: Catalogue, mixes: Mixes, counts: NextCounts | None) -> None:
        self._domains = catalogue.domains
        self._mixes = mixes
        # a memory map is slower to index
        self._counts = counts and NextCounts(*map(np.asarray, (counts.starts, counts.rows, counts.weights)))
        self._is_zero = not any(any(w.sparse) for mix in mixes for w in (mix.warm, mix.cold))
        self.has_popular = any(mix.cold.popular for mix in mixes)
        self._has_offsets = any(mix.offset or mix.offset_last for mix in mixes)

    def bonus(self, history: Rows, start: int, stop: int) -> SparseBonus | None:
        """What is added to the scores of the rows ``start <= row < stop`` after a history; None for nothing.

        Where both domains are asked for, that of the second one is shifted by how much its offset is above
        that of the first.
        """
        both = start < self._domains[1].start < stop
        if self._is_zero and not (both and self._has_offsets):
            return None
        parts = [
            self._of_domain(history, index)
            for index, domain in enumerate(self._domains)
            if start < domain.stop and domain.start < stop
        ]
        if not both:
            return parts[0]
        rows = np.concatenate([part.rows for part in parts])
        amounts = np.concatenate([part.amounts for part in parts])
        first, second = self.offsets(history)
        return SparseBonus(rows, amounts, self._domains[1].start, second - first)

    def popular(self, history: Rows, start: int, stop: int) -> dict[Domain, float]:
        """Weight of popularity after a history, in each domain of ``start <= row < stop`` with one."""
        if not self.has_popular:
            return {}
        found = {}
        for index, domain in enumerate(self._domains):
            if start < domain.stop and domain.start < stop:
                weight = self._weights(history, index).popular
                if weight:
                    found[domain] = weight
        return found

    def offsets(self, history: Rows) -> tuple[float, float]:
        """Offset of each domain after a history."""
        last = int(history[-1]) if len(history) else 0
        first, second = (
            mix.offset + mix.offset_last * (domain.start <= last < domain.stop)
            for mix, domain in zip(self._mixes, self._domains, strict=True)
        )
        return first, second

    def shares(self, history: Rows, row: int, *, both: bool) -> dict[str, float]:
        """What each sparse expert adds to the score of a row after a history, and its domain's offset."""
        index = int(row >= self._domains[1].start)
        weights = self._weights(history, index)
        rows, values = sparse_experts(history, index, self._domains, self._counts)
        place = np.flatnonzero(rows == row)
        found = np.zeros(N_SPARSE) if not len(place) else values[place[0]] * np.array(weights.sparse)
        shares = dict(zip(EXPERTS[:N_SPARSE], found.tolist(), strict=True))
        if both:
            first, second = self.offsets(history)
            shares["offset"] = second - first if index else 0.0
        return shares

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


def seen_rows(mixes: Mixes, catalogue: Catalogue) -> tuple[int, int]:
    """Rows ``start <= row < stop`` of the domains of which a history's items are left out by default."""
    excluded = [d for d, mix in zip(catalogue.domains, mixes, strict=True) if mix.exclude_seen]
    return (excluded[0].start, excluded[-1].stop) if excluded else (0, 0)
