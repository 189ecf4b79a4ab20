"""Baselines of a few lines each, which a model must be above to be worth its training.

================ ========================================================================================
popularity       training interactions of the item
next5            next-item counts (`next_item_counts`) of the newest 20 items of the history, each weighed by
                 ``.8 ** age``
repeat+pop       how often the user had the item; among equals, popularity
item cosine      cosine between the training users of two items, summed over the history with ``.8 ** age``
================ ========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.mix.weights import NEXT_DECAY, NEXT_ITEMS
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.evaluation.scorers import FloatArray, IntArray, Scorer
from llmcdsr_tools.next_item_counts import next_counts

COSINE_DECAY = 0.8


def baselines(data: Dataset) -> tuple[Scorer, ...]:
    """All baselines of a data set, from its training histories."""
    n_rows = len(data.catalogue) + 1
    counts = np.bincount(data.train.rows, minlength=n_rows).astype(np.float32)
    users = sp.csr_array(
        (
            np.ones(len(data.train.rows), np.float32),
            data.train.rows.astype(np.int64),
            data.train.offsets.copy(),
        ),
        shape=(len(data.train), n_rows),
    )
    users.sum_duplicates()
    users.data[:] = 1
    lengths = np.sqrt(np.maximum(np.asarray(users.sum(axis=0)).ravel(), 1)).astype(np.float32)
    of_items = sp.csr_array(users @ sp.diags_array(1 / lengths))  # (users, items + 1), columns of length 1
    return (
        Popularity(counts),
        DecayedCounts("next5", next_counts(data.train, n_rows), NEXT_ITEMS, NEXT_DECAY),
        RepeatsAndPopularity(counts),
        ItemCosine(of_items),
    )


@dataclass(frozen=True)
class Popularity:
    """Training interactions of every item (items + 1,)."""

    counts: FloatArray
    name: str = "popularity"

    def scores(self, histories: Sequence[IntArray], domain: Domain) -> FloatArray:
        """See `Scorer.scores`."""
        return np.tile(self.counts[domain.start : domain.stop], (len(histories), 1))


@dataclass(frozen=True)
class RepeatsAndPopularity:
    """How often the history has an item, then training interactions of every item (items + 1,)."""

    counts: FloatArray
    name: str = "repeat+pop"

    def scores(self, histories: Sequence[IntArray], domain: Domain) -> FloatArray:
        """See `Scorer.scores`."""
        share = self.counts / (self.counts.max() + 1)  # below 1
        had = decayed_histories(histories, len(self.counts), None, 1.0)[:, domain.start : domain.stop]
        scores: FloatArray = had.toarray()
        scores += share[domain.start : domain.stop]
        return scores


@dataclass(frozen=True)
class DecayedCounts:
    """A sparse matrix (items + 1, items + 1) from an item to those that go with it."""

    name: str
    counts: Any
    n_newest: int
    decay: float

    def scores(self, histories: Sequence[IntArray], domain: Domain) -> FloatArray:
        """See `Scorer.scores`."""
        weights = decayed_histories(histories, self.counts.shape[0], self.n_newest, self.decay)
        scores: FloatArray = (weights @ self.counts)[:, domain.start : domain.stop].toarray()
        return scores


@dataclass(frozen=True)
class ItemCosine:
    """Items of training users (users, items + 1), columns of length 1: their products are cosines."""

    of_items: Any
    name: str = "item cosine"

    def scores(self, histories: Sequence[IntArray], domain: Domain) -> FloatArray:
        """See `Scorer.scores`."""
        weights = decayed_histories(histories, self.of_items.shape[1], NEXT_ITEMS, COSINE_DECAY)
        users = sp.csr_array(weights @ self.of_items.T)  # (n, training users)
        scores: FloatArray = (users @ self.of_items[:, domain.start : domain.stop]).toarray()
        return scores


def decayed_histories(
    histories: Sequence[IntArray], n_rows: int, n_newest: int | None, decay: float
) -> sp.csr_array:
    """Sum of ``decay ** age`` over the places of each item in the newest part of histories (n, items + 1)."""
    newest = [history if n_newest is None else history[-n_newest:] for history in histories]
    lengths = np.array([len(history) for history in newest])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.concatenate([*newest, np.zeros(0, np.int64)]).astype(np.int64)
    ages = np.repeat(offsets[1:], lengths) - 1 - np.arange(len(rows))
    weights = sp.csr_array((decay ** ages.astype(np.float32), rows, offsets), shape=(len(newest), n_rows))
    weights.sum_duplicates()
    return weights
