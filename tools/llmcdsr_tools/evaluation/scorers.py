"""Scorers: what gives every item of a domain a score after a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.backend import Backend
from llmcdsr_lite.catalogue import Domain

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
