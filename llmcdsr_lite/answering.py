"""From the rows of histories to an answer: pseudo items are recalled, items ranked, the first explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.arguments import Wanted
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.encoder_object import Encoder
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.explanation import Explainer
from llmcdsr_lite.pseudo import Asked, PseudoRecall, Recalled
from llmcdsr_lite.ranking import Ranking
from llmcdsr_lite.recall import NameVectors
from llmcdsr_lite.results import Explanation
from llmcdsr_lite.search.hnsw import HnswSearch
from llmcdsr_lite.search.protocol import Rows, Scores

Answer = tuple[Rows, Scores, npt.NDArray[np.bool_], tuple[Explanation, ...] | None]


class Answering:
    """Answers for histories of item rows.

    Parameters
    ----------
    bundle : Bundle
    ranking : Ranking
    recaller : PseudoRecall or None
        None where the bundle has no recall network.
    """

    def __init__(self, bundle: Bundle, ranking: Ranking, recaller: PseudoRecall | None) -> None:
        self._ranking = ranking
        self._recaller = recaller
        max_length = bundle.parameters.config.max_length
        self._explainer = Explainer(bundle.catalogue, ranking, recaller, max_length)

    def answer(
        self,
        histories: Sequence[Rows],
        asked: Sequence[Asked],
        wanted: Wanted,
        *,
        explain: bool,
    ) -> Answer:
        """Rows and scores (n, k), who gets the most popular items, and explanations where wanted.

        Parameters
        ----------
        histories : sequence of n int64 arrays
        asked : sequence of n "auto", "off" or names
        wanted : Wanted
        explain : bool
            Explain the first item of each history.

        Raises
        ------
        UsageError
            If names are given that cannot be used.
        """
        pseudo = self._recall(histories, wanted.domains, asked, rows_always=explain)
        rows, scores, fallback = self._ranking.rank(histories, pseudo, wanted.k, wanted.filters)
        if not explain:
            return rows, scores, fallback, None
        tops = np.where(fallback, 0, rows[:, 0])
        explanations = tuple(
            self._explainer.explain(history, wanted.domains, one, items, int(top))
            for history, one, items, top in zip(histories, asked, pseudo, tops, strict=True)
        )
        return rows, scores, fallback, explanations

    def _recall(
        self,
        histories: Sequence[Rows],
        domains: Sequence[Domain],
        asked: Sequence[Asked],
        *,
        rows_always: bool,
    ) -> list[Recalled]:
        """Pseudo items of each history."""
        if self._recaller is None:
            if not all(isinstance(one, str) for one in asked):
                raise UsageError("pseudo: this bundle has no recall network, so names cannot be used")
            return [()] * len(histories)
        return self._recaller.recall(histories, domains, asked, rows_always=rows_always)


def make_recaller(
    bundle: Bundle, encoder: Encoder | None, threads: int, *, graph: bool
) -> PseudoRecall | None:
    """What recalls pseudo items, where the bundle has a recall network: by its graph, if wanted and there."""
    if encoder is not None and bundle.new_items is not None:
        if encoder.dimension != bundle.new_items.dimension:
            raise UsageError(
                f"encoder: gives {encoder.dimension} values a text, this bundle expects "
                f"{bundle.new_items.dimension}: name the encoder that it was made with"
            )
        if bundle.recall is None or bundle.recall.projections is None:
            encoder = None  # it is for the titles of new items alone
    if bundle.recall is None:
        if encoder is not None:
            raise UsageError("encoder: this bundle has no recall network, so there is nothing to encode for")
        return None
    network = bundle.recall
    if graph and bundle.index is not None and bundle.index.recall is not None:
        vectors = np.asarray(network.items, dtype=np.float32)
        search = HnswSearch(vectors, bundle.catalogue.domains, threads, bundle.index.recall)
        network = replace(network, search=search)
    names = NameVectors(bundle.catalogue, network, encoder)
    max_length = bundle.parameters.config.max_length
    return PseudoRecall(bundle.catalogue, network, bundle.mix, max_length, names)
