"""What pseudo items add to scores, where their setting is to fuse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.pseudo import PseudoItems, PseudoSetting
from llmcdsr_lite.recall import FloatArray, RecallNetwork
from llmcdsr_lite.search.protocol import Rows


class Fusion:
    """What pseudo items add to the scores of many users.

    Parameters
    ----------
    network : RecallNetwork
    pseudo : sequence of n PseudoItems or None
        Of each user.
    """

    def __init__(self, network: RecallNetwork, pseudo: Sequence[PseudoItems | None]) -> None:
        self._network = network
        self._users: dict[tuple[Domain, PseudoSetting], list[tuple[int, PseudoItems]]] = {}
        for i, items in enumerate(pseudo):
            if items is not None and items.setting.mode == "fuse":
                self._users.setdefault((items.domain, items.setting), []).append((i, items))

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
        for (domain, setting), everyone in self._users.items():
            users = [(i - chunk.start, items) for i, items in everyone if chunk.start <= i < chunk.stop]
            first, last = np.searchsorted(rows, (domain.start, domain.stop))
            if not users or first == last:
                continue
            if setting.scope == "domain":
                contiguous = rows[last - 1] - rows[first] == last - first - 1
                wanted = slice(rows[first], rows[first] + last - first) if contiguous else rows[first:last]
                directions = np.stack([items.direction for _, items in users])
                scores[[i for i, _ in users], first:last] += setting.weight * (
                    directions @ self._network.items[wanted].T
                )
                continue
            for i, items in users:
                columns = np.searchsorted(rows, items.rows)
                there = rows[np.minimum(columns, len(rows) - 1)] == items.rows
                scores[i, columns[there]] += setting.weight * items.similarities[there]
