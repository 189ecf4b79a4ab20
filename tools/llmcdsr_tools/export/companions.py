"""What an item says by its company: the items of the other domain that its overlapped users have.

The generator `neighbours` at the level of items, computed once. A user's items of a domain are the mean of
their vectors, less the mean of all users, for what everybody has tells nothing. An item's vector is the sum
over its users, divided by their number + `SHRINKAGE`: few users say little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from llmcdsr_lite.reference.recall_network import unit_rows
from llmcdsr_tools.dataset import Dataset

FloatArray = npt.NDArray[np.floating[Any]]

SHRINKAGE = 10.0
TITLE_SHARE = 0.5  # length of a title in a mixture, in mean lengths of companions


def companion_vectors(data: Dataset, items: FloatArray) -> npt.NDArray[np.float32]:
    """Vector of every item in the space of the domain that it is not of.

    Parameters
    ----------
    data : Dataset
        Its train users are counted; an item that a user has twice counts once.
    items : float array (items + 1, H')
        Item vectors that recall searches, of length 1, row 0 zero.

    Returns
    -------
    float32 array (items + 1, H')
        Zero for items without an overlapped user, and in row 0.
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
    counts = [has[:, domain].sum(axis=1) for domain in domains]  # items of each user
    overlapped = np.flatnonzero((counts[0] > 0) & (counts[1] > 0))
    vectors = np.zeros(items.shape)
    if not len(overlapped):
        return vectors.astype(np.float32)
    has = has[overlapped]
    for index, own in enumerate(domains):
        others = domains[1 - index]
        users = (has[:, others] @ items[others].astype(np.float64)) / counts[1 - index][overlapped, None]
        users -= users.mean(axis=0)  # (users, H')
        vectors[own] = has[:, own].T @ users
        vectors[own] /= (has[:, own].sum(axis=0) + SHRINKAGE)[:, None]
    return vectors.astype(np.float32)


def both_vectors(data: Dataset, titles: FloatArray, companions: FloatArray) -> npt.NDArray[np.float32]:
    """Both: companions, and titles less their mean, at `TITLE_SHARE` of the mean length of companions.

    Parameters
    ----------
    data : Dataset
    titles, companions : float arrays (items + 1, H')
        Zero for items that have none.
    """
    mixed = np.zeros(titles.shape)
    for domain in data.catalogue.domains:
        own = slice(domain.start, domain.stop)
        of_titles = titles[own].astype(np.float64)
        titled = of_titles.any(axis=1)
        if titled.any():
            of_titles[titled] -= of_titles[titled].mean(axis=0)
        lengths = np.linalg.norm(companions[own], axis=1)
        share = TITLE_SHARE * (lengths[lengths > 0].mean() if lengths.any() else 1.0)
        mixed[own] = companions[own] + share * unit_rows(of_titles)
    return mixed.astype(np.float32)
