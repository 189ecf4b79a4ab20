"""Items held out of training: the data set as it was before they existed, and where they occur.

Held-out items are in no history and not in the catalogue, so a model trained on the rest has seen them
neither as items nor as negatives. What a model makes of them afterwards is asked wherever a held-out user
(validation, test) has one of them, not only where it comes last: those are few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.dataset import SPLITS, Dataset, Histories
from llmcdsr_tools.evaluation.queries import Queries

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class HeldOut:
    """A data set without some of its items.

    Parameters
    ----------
    rows : int64 array (m,)
        Rows of the held-out items in the whole data set, sorted.
    kept : int64 array (items - m,)
        Rows of the others; the item of row ``kept[i]`` has row ``i + 1`` in the reduced data set.
    reduced : Dataset
        All histories without the held-out items; those with nothing left are gone.
    """

    rows: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    reduced: Dataset


def hold_out(data: Dataset, share: float, seed: int) -> HeldOut:
    """Hold out that share of the items of each domain, drawn at random.

    Parameters
    ----------
    data : Dataset
    share : float
        Above 0, below 1; at least one item of each domain is held out and at least one is kept.
    seed : int

    Raises
    ------
    DataError
        If `share` is not such a number, or a domain has a single item.
    """
    if not 0 < share < 1:
        raise DataError(f"share is {share}, expected a number between 0 and 1")
    rng = np.random.default_rng([seed, 5])
    drawn = []
    for domain in data.catalogue.domains:
        if domain.n_items < 2:
            raise DataError(f"domain {domain.name!r} has a single item, which cannot be held out")
        n = min(max(1, round(share * domain.n_items)), domain.n_items - 1)
        drawn.append(domain.start + rng.choice(domain.n_items, n, replace=False))
    rows = np.sort(np.concatenate(drawn))
    is_kept = np.ones(len(data.catalogue) + 1, dtype=bool)
    is_kept[rows] = False
    is_kept[0] = False
    kept = np.flatnonzero(is_kept)
    new_row = np.zeros(len(is_kept), dtype=np.int32)  # (items + 1,), 0 for those that are held out
    new_row[kept] = np.arange(1, len(kept) + 1)
    titles = [data.catalogue.titles[row - 1] for row in kept.tolist()]
    ids = [data.catalogue.ids[row - 1] for row in kept.tolist()]
    domains = data.catalogue.domains
    sizes = np.bincount(data.catalogue.domain_indices(kept), minlength=len(domains)).tolist()
    catalogue = Catalogue.from_sizes(ids, titles, [domain.name for domain in domains], sizes)
    train, valid, test = (_without(data.split(name), new_row) for name in SPLITS)
    return HeldOut(rows, kept, replace(data, catalogue=catalogue, train=train, valid=valid, test=test))


def occurrences(histories: Histories, wanted: IntArray) -> Queries:
    """Every place in the histories, but the first, with a wanted item: it is the target of what precedes.

    What precedes may hold other wanted items, as it would in practice.
    """
    is_wanted = np.zeros(max(int(histories.rows.max(initial=0)), int(wanted.max(initial=0))) + 1, dtype=bool)
    is_wanted[wanted] = True
    found: list[IntArray] = []
    targets: list[int] = []
    for history in histories:
        for place in np.flatnonzero(is_wanted[history]):
            if place:
                found.append(history[:place])
                targets.append(int(history[place]))
    return Queries(found, np.array(targets, dtype=np.int64))


def _without(histories: Histories, new_row: npt.NDArray[np.int32]) -> Histories:
    """Histories in new rows; items whose new row is 0 are left out, and users who had nothing else."""
    pairs = [
        (left, user)
        for rows, user in zip(histories, histories.users, strict=True)
        if len(left := new_row[rows][new_row[rows] > 0])
    ]
    return Histories.from_lists([left.tolist() for left, _ in pairs], [user for _, user in pairs])
