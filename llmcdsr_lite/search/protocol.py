"""What every search does, and the types that it speaks in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from llmcdsr_lite.search.bonus import SparseBonus

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RowFilter:
    """Item rows that a search may find.

    Parameters
    ----------
    start, stop : int
        None but ``start <= row < stop``.
    blocked : sequence of n int64 arrays
        Rows that each user must not get.
    allowed : int64 array, optional
        The only rows that any user may get, sorted and distinct.
    """

    start: int
    stop: int
    blocked: Sequence[Rows]
    allowed: Rows | None = None

    def of_users(self, users: slice) -> RowFilter:
        """The filter of some users."""
        return RowFilter(self.start, self.stop, self.blocked[users], self.allowed)


class Search(Protocol):
    """What finds items."""

    name: str

    def search(
        self,
        users: npt.NDArray[np.floating[Any]],
        k: int,
        wanted: RowFilter,
        bonuses: Sequence[SparseBonus | None] | None = None,
    ) -> tuple[Rows, Scores]:
        """The k items with the highest score for every user: the dot product, and the user's bonus.

        Parameters
        ----------
        users : float array (n, H)
        k : int
        wanted : RowFilter
        bonuses : sequence of n SparseBonus or None, optional
            What is added to the scores of each user.

        Returns
        -------
        rows : int64 array (n, k)
            Best first, ties by row; 0 where there are fewer than k.
        scores : float32 array (n, k)
            ``-inf`` where there is no item.
        """
