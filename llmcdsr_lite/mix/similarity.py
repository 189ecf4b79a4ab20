"""The expert `similar` of the mix: the cosine of every item to the pooled names, times its weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.pseudo import PseudoItems
from llmcdsr_lite.recall import FloatArray, RecallNetwork
from llmcdsr_lite.search.protocol import Rows


class Similarity:
    """What pseudo items add to the scores of many users by their similarity.

    Parameters
    ----------
    network : RecallNetwork
    pseudo : sequence of n PseudoItems or None
        Of each user.
    """

    def __init__(self, network: RecallNetwork, pseudo: Sequence[PseudoItems | None]) -> None:
        self._items = network.items
        self._users: dict[Domain, list[tuple[int, PseudoItems]]] = {}
        for i, items in enumerate(pseudo):
            if items is not None and items.weights.similar:
                self._users.setdefault(items.domain, []).append((i, items))

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
        for domain, everyone in self._users.items():
            users = [(i - chunk.start, items) for i, items in everyone if chunk.start <= i < chunk.stop]
            first, last = np.searchsorted(rows, (domain.start, domain.stop))
            if not users or first == last:
                continue
            contiguous = rows[last - 1] - rows[first] == last - first - 1
            wanted = slice(rows[first], rows[first] + last - first) if contiguous else rows[first:last]
            directions = np.stack([items.weights.similar * items.direction for _, items in users])
            scores[[i for i, _ in users], first:last] += directions @ self._items[wanted].T
