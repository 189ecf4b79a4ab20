"""The highest scores of many, and the steps around them that searches share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.search.protocol import RowFilter, Rows, Scores

GROUP = 16  # columns in a group of `lower_bound`


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
    wanted: RowFilter,
    candidates: Rows | None,
    lowest: float,
) -> None:
    """Set the scores (n, m) of each user's blocked rows to the lowest, in place."""
    if candidates is not None:
        for i, forbidden in enumerate(wanted.blocked):
            scores[i, np.isin(candidates, forbidden)] = lowest
        return
    start, stop = wanted.start, wanted.stop
    for i, forbidden in enumerate(wanted.blocked):
        if len(forbidden):
            scores[i, forbidden[(forbidden >= start) & (forbidden < stop)] - start] = lowest


def nothing(n: int, k: int) -> tuple[Rows, Scores]:
    """Rows and scores (n, k) where nothing was found."""
    return np.zeros((n, k), dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
