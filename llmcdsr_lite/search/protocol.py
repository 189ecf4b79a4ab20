"""What every search does, and the types that it speaks in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
