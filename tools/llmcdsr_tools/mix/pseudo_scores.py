"""What the experts of pseudo items give to every item of a domain: similarity, and what inserting changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights, Source
from llmcdsr_lite.pseudo import PseudoRecall
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.request import Asked
from llmcdsr_tools.evaluation.scorers import IntArray, Scorer

_EACH = ExpertWeights(similar=1.0, inserted=1.0)


class PseudoScores:
    """Values of the experts `similar` and `inserted` of the mix for one source of what items say.

    Parameters
    ----------
    model : Scorer
        The sequence model alone.
    catalogue : Catalogue
    network : RecallNetwork
    source : Source
    max_length : int
        Of the recommender.
    """

    def __init__(
        self,
        model: Scorer,
        catalogue: Catalogue,
        network: RecallNetwork,
        source: Source,
        max_length: int,
    ) -> None:
        mix = DomainMix(cold=_EACH, named=_EACH, source=source)
        self.source = source
        self._recall = PseudoRecall(catalogue, network, (mix,) * len(catalogue.domains), max_length)
        self._model = model

    def values(
        self, histories: Sequence[IntArray], domain: Domain, asked: Sequence[Asked] | None = None
    ) -> npt.NDArray[np.float32]:
        """Values for each of n histories (2, n, items of the domain), zero where nothing is recalled."""
        recalled = self._recall.recall(histories, [domain], asked or ["auto"] * len(histories))
        values = np.zeros((2, len(histories), domain.n_items), dtype=np.float32)
        some = [(i, pseudo) for i, items in enumerate(recalled) for pseudo in items]
        if some:
            places = [i for i, _ in some]
            items = self._recall.network.items[domain.start : domain.stop]
            values[0, places] = np.stack([pseudo.direction for _, pseudo in some]) @ items.T
            before = [histories[i] for i in places]
            after = [pseudo.sequence(histories[i], self._recall.max_length) for i, pseudo in some]
            values[1, places] = self._model.scores(after, domain) - self._model.scores(before, domain)
        return values
