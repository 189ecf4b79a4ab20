"""Scorers: what gives every item of a domain a score after a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.model.backends import Backend
from llmcdsr_lite.ranking import Ranking
from llmcdsr_lite.request import Asked
from llmcdsr_lite.search.exact import ExactSearch

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


class Scorer(Protocol):
    """Scores items; a higher score is better."""

    @property
    def name(self) -> str:
        """How tables call it."""

    def scores(self, histories: Sequence[IntArray], domain: Domain) -> FloatArray:
        """Score of every item of the domain after each of n histories: float array (n, items).

        The caller may change the array.
        """


@dataclass(frozen=True)
class ModelScorer:
    """The dot product of user representation and item vector.

    Parameters
    ----------
    backend : Backend
    item_vectors : float array (items + 1, H)
    name : str
    """

    backend: Backend
    item_vectors: FloatArray
    name: str = "model"

    def scores(self, histories: Sequence[IntArray], domain: Domain) -> FloatArray:
        """See `Scorer.scores`."""
        users = self.backend.represent(histories)
        scores: FloatArray = users @ self.item_vectors[domain.start : domain.stop].T
        return scores


class BundleScorer:
    """A bundle as it answers: with its mix, and the pseudo items that it weighs.

    Parameters
    ----------
    bundle : Bundle
    backend : Backend
    name : str
    pseudo : bool
        Whether pseudo items are recalled.
    """

    def __init__(self, bundle: Bundle, backend: Backend, name: str = "model", *, pseudo: bool = True) -> None:
        self.name = name
        self._ranking = Ranking(bundle, backend, ExactSearch(bundle.item_vectors))
        self._asked: Asked = "auto" if pseudo else "off"

    def scores(self, histories: Sequence[IntArray], domain: Domain) -> FloatArray:
        """See `Scorer.scores`."""
        rows = [history.astype(np.int64) for history in histories]
        recalled = self._ranking.recall(rows, [domain], [self._asked] * len(rows))
        return self._ranking.scores(rows, recalled, (domain.start, domain.stop))


def bundle_scorers(bundle: Bundle, backend: Backend, *, pseudo: bool = True) -> tuple[Scorer, ...]:
    """A bundle as it answers, and, where it adds anything to the sequence model's scores, that alone."""
    scorer = BundleScorer(bundle, backend, pseudo=pseudo)
    weights = [w for mix in bundle.mix for w in (mix.warm, mix.cold)]
    if not any(any(w.sparse) or w.popular or (pseudo and w.recalls) for w in weights):
        return (scorer,)
    return scorer, ModelScorer(backend, bundle.item_vectors, "model alone")


@dataclass(frozen=True)
class Named:
    """A scorer under another name."""

    name: str
    scorer: Scorer

    def scores(self, histories: Sequence[IntArray], domain: Domain) -> FloatArray:
        """See `Scorer.scores`."""
        return self.scorer.scores(histories, domain)
