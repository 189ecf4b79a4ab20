"""What is added to the dot products of one user before the best items are found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.search.protocol import Rows

_ROUNDING = 2.0**-23
_MOST = 1 << 29  # whole numbers added to a scan's scores; sums of two stay within 32 bits


@dataclass(frozen=True, eq=False)
class SparseBonus:
    """Amounts for few items, and others for whole domains.

    Parameters
    ----------
    rows : int64 array (m,)
        Item rows, sorted and distinct.
    amounts : float32 array (m,)
    shifts : tuple of (int, int, float)
        Added to every item of the rows ``start <= row < stop``; those of two do not overlap.
    """

    rows: Rows
    amounts: npt.NDArray[np.float32]
    shifts: tuple[tuple[int, int, float], ...] = ()

    def of(self, rows: Rows) -> npt.NDArray[np.float64]:
        """What is added to the scores of some rows (n,)."""
        added: npt.NDArray[np.float64] = np.zeros(len(rows))
        for first, last, shift in self.shifts:
            added[(rows >= first) & (rows < last)] = shift
        if len(self.rows):
            places = self.rows.searchsorted(rows)
            places[places == len(self.rows)] = 0
            added += self.amounts[places] * (self.rows[places] == rows)
        return added

    @property
    def largest(self) -> float:
        """No score changes by more."""
        shift = max((abs(shift) for _, _, shift in self.shifts), default=0.0)
        return float(np.abs(self.amounts).max(initial=0.0)) + shift

    def add(self, scores: npt.NDArray[Any], start: int, stop: int, candidates: Rows | None = None) -> None:
        """Add to float scores (m,) of the rows ``start <= row < stop``, or of the candidates, in place."""
        if candidates is not None:
            scores += self.of(candidates).astype(scores.dtype)
            return
        for first, last, shift in self.shifts:
            scores[max(first - start, 0) : max(last - start, 0)] += scores.dtype.type(shift)
        rows, amounts = self._within(start, stop)
        scores[rows - start] += amounts

    def add_whole(self, scores: npt.NDArray[np.int32], start: int, stop: int, unit: float) -> float:
        """Add to scores in whole units, in place; how far the sums can be off, infinite beyond 32 bits."""
        if not self.largest < _MOST * unit:
            return np.inf
        for first, last, shift in self.shifts:
            scores[max(first - start, 0) : max(last - start, 0)] += np.int32(_whole(shift, unit))
        rows, amounts = self._within(start, stop)
        scores[rows - start] += _whole(amounts, unit).astype(np.int32)
        return 1 + _ROUNDING * self.largest / unit  # of the whole numbers, of the sum to float32

    def _within(self, start: int, stop: int) -> tuple[Rows, npt.NDArray[np.float32]]:
        if not len(self.rows) or (self.rows[0] >= start and self.rows[-1] < stop):
            return self.rows, self.amounts
        inside = slice(*self.rows.searchsorted((start, stop)))
        return self.rows[inside], self.amounts[inside]


def _whole(amounts: Any, unit: float) -> Any:
    return np.rint(np.asarray(amounts, dtype=np.float64) / unit)
