"""Sparse experts of the mix for one history: next-item counts, repeats, recent items; see `mix.weights`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.mix.weights import (
    N_SPARSE,
    NEXT_DECAY,
    NEXT_ITEMS,
    NEXT_SCALE,
    RECENT_DECAY,
    ExpertWeights,
)
from llmcdsr_lite.search.protocol import Rows

_DECAYS = (NEXT_DECAY ** np.arange(NEXT_ITEMS)[::-1]).astype(np.float32)  # oldest first
_DENSE = 1 << 16  # items of a domain up to which its array is faster than a sort
_NOTHING = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class NextCounts:
    """Which items of each domain come within a few steps after an item, and how often for their popularity.

    Sparse rows one after another: row ``d * (items + 1) + j`` has the items of domain d that come after the
    item of row j.

    Parameters
    ----------
    starts : int64 array (domains * (items + 1) + 1,)
        Where each sparse row starts in the other arrays, and where the last one ends.
    rows : int32 array (n,)
        Item rows, rising within a sparse row.
    weights : float32 array (n,)
        How often the item came, over the root of the product of both items' interactions; above 0.
    """

    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]

    def sums(
        self, history: npt.NDArray[np.integer], index: int, n_rows: int
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Items of domain `index`, repeated, and what each place of the history gives them: arrays (n,)."""
        newest = history[-NEXT_ITEMS:] + index * n_rows
        first = self.starts[newest]
        lengths = self.starts[newest + 1] - first
        ends = lengths.cumsum()
        if not len(newest) or not ends[-1]:
            return _NOTHING
        places = (first - ends + lengths).repeat(lengths)
        places += np.arange(len(places))
        weights = self.weights[places] * _DECAYS[-len(newest) :].repeat(lengths)
        return self.rows[places].astype(np.int64), weights


def weighed_experts(
    history: Rows,
    index: int,
    domains: tuple[Domain, ...],
    counts: NextCounts | None,
    weights: ExpertWeights,
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """The weighed sum of the experts for the items that they touch: `sparse_experts` times the weights.

    Returns
    -------
    rows : int64 array (m,)
        Item rows of the domain, sorted and distinct.
    amounts : float32 array (m,)
    """
    domain = domains[index]
    if domain.n_items > _DENSE:
        rows, values = sparse_experts(history, index, domains, counts)
        return rows, values @ np.array(weights.sparse, dtype=np.float32)
    # an array of the whole domain is faster than sorting what is touched; nonzero is, of truth values
    near, times = _NOTHING if counts is None else counts.sums(history, index, domains[-1].stop)
    amounts = np.bincount(near - domain.start, times, domain.n_items).astype(np.float64, copy=False)
    touched = (amounts != 0).nonzero()[0]
    amounts[touched] = weights.next * np.log1p(NEXT_SCALE * amounts[touched])
    if weights.repeat or weights.recent:
        own = np.flatnonzero((history >= domain.start) & (history < domain.stop))
        newest = history[own][::-1] - domain.start
        columns, first, n = np.unique(newest, return_index=True, return_counts=True)
        ages = len(history) - 1 - own[::-1][first]  # of the newest place
        amounts[columns] += weights.repeat * np.log1p(n) + weights.recent * RECENT_DECAY**ages
        touched = (amounts != 0).nonzero()[0]
    return touched + domain.start, amounts[touched].astype(np.float32)


def sparse_experts(
    history: npt.NDArray[np.integer], index: int, domains: tuple[Domain, ...], counts: NextCounts | None
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Values of the experts for the items that they touch.

    Parameters
    ----------
    history : int array (n,)
        Item rows, oldest first.
    index : int
        Of the target domain.
    domains : tuple of Domain
    counts : NextCounts, optional
        Without it the expert ``next`` is zero.

    Returns
    -------
    rows : int64 array (m,)
        Item rows of the domain, sorted and distinct.
    values : float32 array (m, N_SPARSE)
        In the order of `EXPERTS`.
    """
    domain = domains[index]
    near, weights = _NOTHING if counts is None else counts.sums(history, index, domains[-1].stop)
    own = np.flatnonzero((history >= domain.start) & (history < domain.stop))
    touched = np.concatenate([near, history[own]])
    order = touched.argsort()
    ordered = touched[order]
    is_first = np.empty(len(ordered), dtype=bool)
    is_first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    rows = ordered[is_first]
    place = np.empty(len(ordered), dtype=np.int64)
    place[order] = is_first.cumsum() - 1  # of every touched row among the distinct ones
    values = np.zeros((len(rows), N_SPARSE), dtype=np.float32)
    if len(near):
        summed = np.bincount(place[: len(near)], weights, minlength=len(rows))
        values[:, 0] = np.log1p(NEXT_SCALE * summed)
    if len(own):
        places = place[len(near) :]
        values[:, 1] = np.log1p(np.bincount(places, minlength=len(rows)))
        values[places, 2] = RECENT_DECAY ** (len(history) - 1 - own)  # of equal places the newest stays
    return rows, values
