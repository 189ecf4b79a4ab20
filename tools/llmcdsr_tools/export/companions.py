"""What an item says by its company: the items of another domain that its users have there.

The generator `neighbours` at the level of items, computed once for each target domain, of the users with
items of it and of others. A user's items of the domain are the mean of their vectors, less the mean of all
these users, for what everybody has tells nothing. An item's vector is the sum over its users, divided by
their number + `SHRINKAGE`: few users say little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from llmcdsr_lite.model.recall_network import unit_rows
from llmcdsr_lite.recall import slot
from llmcdsr_tools.data.dataset import Dataset

FloatArray = npt.NDArray[np.floating[Any]]

SHRINKAGE = 10.0
TITLE_SHARE = 0.5  # length of a title in a mixture, in mean lengths of companions


def companion_vectors(data: Dataset, items: FloatArray) -> npt.NDArray[np.float32]:
    """Vector of every item in the space of each domain that it is not of.

    Parameters
    ----------
    data : Dataset
        Its train users are counted; an item that a user has twice counts once.
    items : float array (items + 1, H')
        Item vectors that recall searches, of length 1, row 0 zero.

    Returns
    -------
    float32 array (domains - 1, items + 1, H')
        As `RecallNetwork.names`; zero for items without such a user, and in row 0.
    """
    train, n_rows = data.train, len(items)
    # all three arrays are copies: csr_array keeps what it is given, and sum_duplicates writes to it
    has = sp.csr_array(
        (np.ones(len(train.rows)), train.rows.astype(np.int64), train.offsets.copy()),
        shape=(len(train), n_rows),
    )
    has.sum_duplicates()
    has.data[:] = 1
    domains = [slice(domain.start, domain.stop) for domain in data.catalogue.domains]
    counts = np.stack([has[:, domain].sum(axis=1) for domain in domains], axis=1)  # (users, domains)
    vectors = np.zeros((len(domains) - 1, *items.shape), dtype=np.float32)
    for target, wanted in enumerate(domains):
        overlapped = np.flatnonzero((counts[:, target] > 0) & (counts[:, target] < counts.sum(axis=1)))
        if not len(overlapped):
            continue
        users = (has[overlapped][:, wanted] @ items[wanted].astype(np.float64)) / counts[
            overlapped, target, None
        ]
        users -= users.mean(axis=0)  # (users, H')
        for domain, own in enumerate(domains):
            if domain != target:
                own_items = has[overlapped][:, own]
                said = own_items.T @ users
                said /= (own_items.sum(axis=0) + SHRINKAGE)[:, None]
                vectors[slot(domain, target), own] = said
    return vectors


def both_vectors(data: Dataset, titles: FloatArray, companions: FloatArray) -> npt.NDArray[np.float32]:
    """Both: companions, and titles less their mean, at `TITLE_SHARE` of the mean length of companions.

    Parameters
    ----------
    data : Dataset
    titles, companions : float arrays (domains - 1, items + 1, H')
        Zero for items that have none.
    """
    mixed = np.zeros(titles.shape, dtype=np.float32)
    for place in range(len(titles)):
        for domain in data.catalogue.domains:
            own = (place, slice(domain.start, domain.stop))
            of_titles = titles[own].astype(np.float64)
            titled = of_titles.any(axis=1)
            if titled.any():
                of_titles[titled] -= of_titles[titled].mean(axis=0)
            lengths = np.linalg.norm(companions[own], axis=1)
            share = TITLE_SHARE * (lengths[lengths > 0].mean() if lengths.any() else 1.0)
            mixed[own] = companions[own] + share * unit_rows(of_titles)
    return mixed
