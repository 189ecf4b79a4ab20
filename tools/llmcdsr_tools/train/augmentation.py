"""Augmented sequences: histories with pseudo items of a domain that they lack inserted.

Every pseudo item stands before a real item, at a random place, so that the last item stays real; the loss
counts only what comes before a real item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.packing import pack, token_indices
from llmcdsr_tools.data.dataset import Histories
from llmcdsr_tools.optimization.batches import TrainingBatch
from llmcdsr_tools.optimization.losses import RowArray


@dataclass(frozen=True)
class AugmentedBatch:
    """Packed augmented sequences, and where their pseudo items are.

    Parameters
    ----------
    batch : TrainingBatch
        The inserted tokens are frozen: what their embeddings are told goes to the pooled vectors.
    inserted : int64 array (inserted,)
        Tokens that are pseudo items.
    owners : int64 array (inserted,)
        For each, the place of its user in the batch.
    n_pseudo : int
        Pseudo items recalled for every user; those that a long sequence has no room for are cut off.
    """

    batch: TrainingBatch
    inserted: RowArray
    owners: RowArray
    n_pseudo: int

    def straight_through(self, d_inputs: FloatArray, n_users: int) -> FloatArray:
        """Gradient of the pooled vectors (users, H): the mean over the user's pseudo items.

        Parameters
        ----------
        d_inputs : float array (T, H)
            Gradient by the embedding of every token. One that is cut off counts as zero.
        n_users : int
        """
        d_pooled = np.zeros((n_users, d_inputs.shape[1]), dtype=d_inputs.dtype)
        np.add.at(d_pooled, self.owners, d_inputs[self.inserted])
        d_pooled /= self.n_pseudo
        return d_pooled


def insert_pseudo_items(
    histories: Histories, users: RowArray, pseudo: RowArray, max_length: int, rng: np.random.Generator
) -> AugmentedBatch:
    """Augment the histories of some users.

    Parameters
    ----------
    histories : Histories
    users : int64 array (n,)
        Users with at least one item.
    pseudo : int64 array (n, k)
        Item rows to insert for each.
    max_length : int
        Sequences are cut to the newest `max_length` inputs, pseudo items counted.
    rng : Generator
        Draws the places: each pseudo item is before any of the real ones with equal probability.
    """
    n, k = pseudo.shape
    starts, stops = histories.offsets[users], histories.offsets[users + 1]
    lengths = np.minimum(stops - starts, max_length + 1)
    real = histories.rows[token_indices(stops - lengths, lengths)].astype(np.int64)
    # A real item stands at its place, counted from 1; a pseudo item anywhere between 0 and the last.
    places = np.concatenate(
        [token_indices(np.ones(n, dtype=np.int64), lengths), (rng.random((n, k)) * lengths[:, None]).ravel()]
    )
    owners = np.concatenate([np.repeat(np.arange(n), lengths), np.repeat(np.arange(n), k)])
    order = np.lexsort((places, owners))
    rows = np.concatenate([real, pseudo.ravel()])[order]
    is_pseudo = order >= len(real)
    ends = np.cumsum(lengths + k)
    n_inputs = np.minimum(lengths + k - 1, max_length)
    inputs, indices = pack(rows, ends - 1 - n_inputs, n_inputs, max_length)
    scored = np.flatnonzero(~is_pseudo[indices + 1])
    inserted = np.flatnonzero(is_pseudo[indices])
    batch = TrainingBatch(inputs, rows[indices[scored] + 1], scored, inserted)
    return AugmentedBatch(batch, inserted, owners[order][indices[inserted]], k)
