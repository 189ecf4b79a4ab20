"""Next-item counts: how often an item came within a few steps after another one in training histories."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from llmcdsr_tools.data.dataset import Histories

WINDOW = 5


def next_counts(histories: Histories, n_rows: int, window: int = WINDOW) -> sp.csr_array:
    """Count pairs of items, the second at most `window` steps after the first, by their popularity.

    Parameters
    ----------
    histories : Histories
    n_rows : int
        Items + 1.
    window : int

    Returns
    -------
    csr_array (items + 1, items + 1) of float64
        Entry (j, i): how often i came within `window` steps after j, divided by the root of the product of
        how often each occurs.
    """
    rows = histories.rows.astype(np.int64)
    user = np.repeat(np.arange(len(histories)), histories.lengths)  # of every interaction
    before, after = [], []
    for step in range(1, window + 1):
        pairs = user[step:] == user[:-step]
        before.append(rows[:-step][pairs])
        after.append(rows[step:][pairs])
    first, second = np.concatenate(before), np.concatenate(after)
    counts = sp.coo_array((np.ones(len(first)), (first, second)), shape=(n_rows, n_rows)).tocsr()
    popularity = np.bincount(rows, minlength=n_rows).astype(np.float64)
    scale = sp.diags_array(1 / np.sqrt(np.maximum(popularity, 1)))
    return sp.csr_array(scale @ counts @ scale)
