"""Why an item was recommended: its pseudo items, and each history item left out in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.pseudo import Asked, PseudoItems, PseudoRecall, Recalled
from llmcdsr_lite.ranking import Ranking
from llmcdsr_lite.results import Explanation, Influence, PseudoItem
from llmcdsr_lite.search.protocol import Rows


class Explainer:
    """Explains first recommendations.

    Parameters
    ----------
    catalogue : Catalogue
    ranking : Ranking
    recaller : PseudoRecall or None
    max_length : int
        Of the recommender.
    """

    def __init__(
        self, catalogue: Catalogue, ranking: Ranking, recaller: PseudoRecall | None, max_length: int
    ) -> None:
        self._catalogue = catalogue
        self._ranking = ranking
        self._recaller = recaller
        self._max_length = max_length

    def explain(
        self,
        history: Rows,
        domains: Sequence[Domain],
        asked: Asked,
        pseudo: Recalled,
        top: int,
    ) -> Explanation:
        """Explain the first recommendation for one history.

        Parameters
        ----------
        history : int64 array (n,)
            Item rows.
        domains : sequence of Domain
            Those that were asked for, in order.
        asked : "auto", "off" or names
        pseudo : tuple of PseudoItems
            Those of the answer.
        top : int
            Row of the first recommendation, 0 if there is none that the history had a part in.
        """
        rows = domains[0].start, domains[-1].stop
        changes = self._changes(history, domains, asked, pseudo, top) if top else []
        shares = self._ranking.shares(top, history, pseudo, *rows) if top else {}
        items = history.tolist() if top else []
        return Explanation(
            "; ".join(self._setting(items, domains) for items in pseudo) or "off",
            tuple(item for items in pseudo for item in self._described(items, history)),
            tuple(Influence(*self._item(r), change) for r, change in zip(items, changes, strict=True)),
            {name: share for name, share in shares.items() if share or name == "model"},
        )

    def _changes(
        self,
        history: Rows,
        domains: Sequence[Domain],
        asked: Asked,
        pseudo: Recalled,
        top: int,
    ) -> list[float | None]:
        """Change of the score of row `top` for each item of the history, all scored in one call."""
        n_old = max(0, len(history) - self._max_length)
        without = [np.delete(history, i) for i in range(n_old, len(history))]
        recalled: list[Recalled] = [()] * len(without)
        if self._recaller is not None:
            recalled = self._recaller.recall(without, domains, [asked] * len(without))
        histories, of_each = [history, *without], [pseudo, *recalled]
        rows = domains[0].start, domains[-1].stop
        whole, *scores = self._ranking.scores(top, histories, of_each, *rows).tolist()
        changes: list[float | None] = [0.0] * n_old
        for left, items, score in zip(without, recalled, scores, strict=True):
            changes.append(whole - score if len(left) or items else None)
        return changes

    def _setting(self, pseudo: PseudoItems, domains: Sequence[Domain]) -> str:
        return str(pseudo) if len(domains) == 1 else f"{pseudo.domain.name}: {pseudo}"

    def _described(self, pseudo: PseudoItems, history: Rows) -> tuple[PseudoItem, ...]:
        n_seen = pseudo.n_seen(len(history), self._max_length) if pseudo.weights.inserted else 0
        found = zip(pseudo.rows.tolist(), pseudo.similarities.tolist(), strict=True)
        return tuple(
            PseudoItem(*self._item(row), similarity, place < n_seen)
            for place, (row, similarity) in enumerate(found)
        )

    def _item(self, row: int) -> tuple[str, str]:
        return self._catalogue.ids[row - 1], self._catalogue.titles[row - 1]
