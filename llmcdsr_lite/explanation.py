"""Why an item was recommended: its pseudo items, and each history item left out in turn."""

from __future__ import annotations

import numpy as np

from llmcdsr_lite.pseudo import PseudoItems, Recalled
from llmcdsr_lite.ranking import Ranking
from llmcdsr_lite.request import Asked, Request
from llmcdsr_lite.results import Explanation, Influence, PseudoItem
from llmcdsr_lite.search.protocol import Rows


def explain(
    ranking: Ranking, request: Request, history: Rows, asked: Asked, pseudo: Recalled, top: int
) -> Explanation:
    """Explain the first recommendation for one history.

    Parameters
    ----------
    ranking : Ranking
    request : Request
    history : int64 array (n,)
        Item rows.
    asked : "auto", "off" or names
    pseudo : tuple of PseudoItems
        Those of the answer.
    top : int
        Row of the first recommendation, 0 if there is none that the history had a part in.
    """
    influences: list[Influence] = []
    shares: dict[str, float] = {}
    if top:
        changes = _changes(ranking, request, history, asked, pseudo, top)
        items = zip(history.tolist(), changes, strict=True)
        influences = [Influence(*_id_and_title(ranking, row), change) for row, change in items]
        shares = ranking.shares(top, history, pseudo, *request.bounds)
    several = len(request.domains) > 1
    return Explanation(
        "; ".join(f"{p.domain.name}: {p}" if several else str(p) for p in pseudo) or "off",
        tuple(item for recalled in pseudo for item in _pseudo_items(ranking, recalled, len(history))),
        tuple(influences),
        {name: share for name, share in shares.items() if share or name == "model"},
    )


def _changes(
    ranking: Ranking, request: Request, history: Rows, asked: Asked, pseudo: Recalled, top: int
) -> list[float | None]:
    """Change of the score of row `top` for each item of the history, all scored in one call."""
    n_old = max(0, len(history) - ranking.max_length)
    without = [np.delete(history, i) for i in range(n_old, len(history))]
    recalled = ranking.recall(without, request.domains, [asked] * len(without))
    items = top, top + 1
    scores = ranking.scores([history, *without], [pseudo, *recalled], items, request.bounds)
    whole, *others = scores[:, 0].tolist()
    changes = [
        whole - score if len(left) or items else None
        for left, items, score in zip(without, recalled, others, strict=True)
    ]
    return [0.0] * n_old + changes


def _pseudo_items(ranking: Ranking, pseudo: PseudoItems, history_length: int) -> list[PseudoItem]:
    n_seen = pseudo.n_seen(history_length, ranking.max_length) if pseudo.weights.inserted else 0
    recalled = zip(pseudo.rows.tolist(), pseudo.similarities.tolist(), strict=True)
    return [
        PseudoItem(*_id_and_title(ranking, row), similarity, place < n_seen)
        for place, (row, similarity) in enumerate(recalled)
    ]


def _id_and_title(ranking: Ranking, row: int) -> tuple[str, str]:
    catalogue = ranking.bundle.catalogue
    return catalogue.ids[row - 1], catalogue.titles[row - 1]
