"""The experts of the mix that touch every item of a domain: popularity, and similarity to pseudo items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.pseudo import Recalled
from llmcdsr_lite.recall import FloatArray
from llmcdsr_lite.search.protocol import Rows


@dataclass(frozen=True, eq=False)
class DenseExperts:
    """What is added to the scores of many users, for whole domains.

    Parameters
    ----------
    popularity : float32 array (items + 1,)
        Of every item, see `mix.settings`.
    items : float array (items + 1, H') or None
        Item vectors that recall searches, where there is a recall network.
    popular : sequence of n dicts
        Weight of popularity in each domain where a user's history has a weight for it.
    pseudo : sequence of n tuples of PseudoItems
        Of each user.
    """

    popularity: FloatArray
    items: FloatArray | None
    popular: Sequence[dict[Domain, float]]
    pseudo: Sequence[Recalled]

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
        popular: dict[Domain, list[tuple[int, float]]] = {}
        similar: dict[Domain, list[tuple[int, FloatArray]]] = {}
        for i, (weights, recalled) in enumerate(zip(self.popular[chunk], self.pseudo[chunk], strict=True)):
            for domain, weight in weights.items():
                popular.setdefault(domain, []).append((i, weight))
            for pseudo in recalled:
                if pseudo.weights.similar:
                    direction = pseudo.weights.similar * pseudo.direction
                    similar.setdefault(pseudo.domain, []).append((i, direction))
        for domain in {**popular, **similar}:
            first, last = np.searchsorted(rows, (domain.start, domain.stop))
            if first == last:
                continue
            contiguous = rows[last - 1] - rows[first] == last - first - 1
            wanted = slice(rows[first], rows[first] + last - first) if contiguous else rows[first:last]
            for i, weight in popular.get(domain, ()):
                scores[i, first:last] += weight * self.popularity[wanted]
            users = similar.get(domain)
            if users and self.items is not None:
                directions = np.stack([direction for _, direction in users])
                scores[[i for i, _ in users], first:last] += directions @ self.items[wanted].T


def popularity(item_counts: FloatArray | Rows) -> FloatArray:
    """Values of the expert `popular`: ``log(1 + training interactions)`` of every item (items + 1,)."""
    return np.log1p(np.asarray(item_counts, dtype=np.float64)).astype(np.float32)
