"""Exact scores of the few items that can be among the best, and the best of them.

The score of an item is the dot product of the float32 vectors as float64 has it, rounded to float32: it
depends neither on who else is searched for, nor on how the candidates were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.search.bonus import SparseBonus
from llmcdsr_lite.search.protocol import RowFilter, Rows, Scores

_PAIRS = 1 << 10  # of user and item in float64 at a time: they stay in the cache


def best_of_reached(
    item_vectors: npt.NDArray[np.float32],
    users: npt.NDArray[np.float64],
    reached: npt.NDArray[np.bool_],
    candidates: Rows | int,
    k: int,
    bonuses: Sequence[SparseBonus | None] | None = None,
) -> tuple[Rows, Scores]:
    """The k best of the items that each user has reached, ties by row.

    Parameters
    ----------
    item_vectors : float32 array (items + 1, H)
    users : float64 array (n, H)
    reached : bool array (n, m)
    candidates : int64 array (m,) or int
        Item rows of the columns, sorted, or the first of them.
    k : int
    bonuses : sequence of n SparseBonus or None, optional
        Added to the scores of each user.

    Returns
    -------
    rows : int64 array (n, k)
        0 where fewer than k were reached.
    scores : float32 array (n, k)
        ``-inf`` where there is no item.
    """
    n = len(users)
    rows, scores = np.zeros((n, k), dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
    if n == 1:
        found = _rows(reached[0].nonzero()[0], candidates)
        bonus = None if bonuses is None else bonuses[0]
        exact = exact_scores(item_vectors, found, users, None, None if bonus is None else bonus.of(found))
        order = (-exact).argsort(kind="stable")[:k]
        rows[0, : len(order)], scores[0, : len(order)] = found[order], exact[order]
        return rows, scores
    flat = reached.ravel().nonzero()[0]  # (pairs,), by user, then by column; ten times faster than in 2-D
    owners = flat // reached.shape[1]
    columns = flat - owners * reached.shape[1]
    found = _rows(columns, candidates)
    counts = np.bincount(owners, minlength=n)
    added = None if bonuses is None else _added(found, counts, bonuses)
    exact = exact_scores(item_vectors, found, users, owners, added)
    widest = int(counts.max(initial=0))
    there = np.arange(widest) < counts[:, None]  # (n, widest)
    table, row_table = np.full(there.shape, -np.inf, dtype=np.float32), np.zeros(there.shape, dtype=np.int64)
    table[there], row_table[there] = exact, found
    order = (-table).argsort(axis=1, kind="stable")[:, :k]
    rows[:, : order.shape[1]] = np.take_along_axis(row_table, order, axis=1)
    scores[:, : order.shape[1]] = np.take_along_axis(table, order, axis=1)
    return rows, scores


def best_with_bonuses(
    item_vectors: npt.NDArray[np.float32],
    users: npt.NDArray[np.float64],
    rows: Rows,
    k: int,
    wanted: RowFilter,
    bonuses: Sequence[SparseBonus | None],
) -> tuple[Rows, Scores]:
    """The k best of rows that a search has found without bonuses, and of those that a bonus touches.

    Exact if the rows hold the best of each domain without bonuses, and no amount is below zero.

    Parameters
    ----------
    item_vectors : float32 array (items + 1, H)
    users : float64 array (n, H)
    rows : int64 array (n, m)
        Not blocked; 0 is none.
    k, wanted, bonuses
        As in `Search.search`.

    Returns
    -------
    rows : int64 array (n, k)
    scores : float32 array (n, k)
    """
    best, scores = np.zeros((len(users), k), np.int64), np.full((len(users), k), -np.inf, np.float32)
    for i, bonus in enumerate(bonuses):
        found = rows[i][rows[i] > 0]
        if bonus is not None:
            touched = bonus.rows[(bonus.rows >= wanted.start) & (bonus.rows < wanted.stop)]
            found = np.union1d(found, touched[~np.isin(touched, wanted.blocked[i])])
        else:
            found = np.sort(found)
        added = None if bonus is None else bonus.of(found)
        exact = exact_scores(item_vectors, found, users[i : i + 1], None, added)
        order = (-exact).argsort(kind="stable")[:k]
        best[i, : len(order)], scores[i, : len(order)] = found[order], exact[order]
    return best, scores


def exact_scores(
    item_vectors: npt.NDArray[np.float32],
    rows: Rows,
    users: npt.NDArray[np.float64],
    owners: npt.NDArray[np.int64] | None,
    added: npt.NDArray[np.float64] | None = None,
) -> Scores:
    """Score of each row (pairs,) for its owner among the users, or for the only one, and what is `added`.

    `einsum` sums every pair in the same order; BLAS would not.
    """
    parts = []
    for first in range(0, max(1, len(rows)), _PAIRS):
        part = slice(first, first + _PAIRS)
        vectors = item_vectors.take(rows[part], axis=0).astype(np.float64)  # (pairs, H)
        if owners is None:
            sums = np.einsum("ph,h->p", vectors, users[0])
        else:
            sums = np.einsum("ph,ph->p", vectors, users.take(owners[part], axis=0))
        if added is not None:
            sums += added[part]
        parts.append(sums.astype(np.float32))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _added(
    rows: Rows, counts: npt.NDArray[np.int64], bonuses: Sequence[SparseBonus | None]
) -> npt.NDArray[np.float64]:
    """What is added to each row (pairs,), of which every user has so many."""
    added = np.zeros(len(rows))
    stops = np.cumsum(counts).tolist()
    for bonus, count, stop in zip(bonuses, counts.tolist(), stops, strict=True):
        if bonus is not None:
            added[stop - count : stop] = bonus.of(rows[stop - count : stop])
    return added


def _rows(columns: npt.NDArray[Any], candidates: Rows | int) -> Rows:
    return columns + candidates if isinstance(candidates, int) else candidates[columns]
