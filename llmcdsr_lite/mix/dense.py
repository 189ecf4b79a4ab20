"""The experts of the mix that touch every item of a domain: popularity, and similarity to pseudo items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search.protocol import Rows

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class DenseExperts:
    """Amounts added to the scores of many users, for whole domains.

    Parameters
    ----------
    popularity : float32 array (items + 1,)
        Of every item, see `mix.weights`.
    items : float array (items + 1, H') or None
        Item vectors that recall searches, where there is a recall network.
    popular : sequence of n mappings
        Weight of popularity by domain, for each user.
    similar : sequence of n mappings
        Pooled names (H',) times the weight of similarity by domain, for each user.
    """

    popularity: FloatArray
    items: FloatArray | None
    popular: Sequence[Mapping[Domain, float]]
    similar: Sequence[Mapping[Domain, FloatArray]]

    def add(self, scores: FloatArray, chunk: slice, rows: Rows) -> None:
        """Add to the scores of some users, in place.

        Parameters
        ----------
        scores : float array (users of the chunk, m)
        chunk : slice
            Which users they are of.
        rows : int64 array (m,)
            Item rows of the columns, sorted.
        """
        popular, similar = self.popular[chunk], self.similar[chunk]
        for domain in {domain: None for weights in (*popular, *similar) for domain in weights}:
            first, last = np.searchsorted(rows, (domain.start, domain.stop))
            if first == last:
                continue
            contiguous = rows[last - 1] - rows[first] == last - first - 1
            wanted = slice(rows[first], rows[first] + last - first) if contiguous else rows[first:last]
            for i, weights in enumerate(popular):
                if domain in weights:
                    scores[i, first:last] += weights[domain] * self.popularity[wanted]
            users = [i for i, directions in enumerate(similar) if domain in directions]
            if users and self.items is not None:
                stacked = np.stack([similar[i][domain] for i in users])
                scores[users, first:last] += stacked @ self.items[wanted].T


def popularity(item_counts: FloatArray | Rows) -> FloatArray:
    """Values of the expert `popular`: ``log(1 + training interactions)`` of every item (items + 1,)."""
    return np.log1p(np.asarray(item_counts, dtype=np.float64)).astype(np.float32)
