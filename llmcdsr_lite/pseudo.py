"""Pseudo items at request time: for whom, and which; what is made of them, the mix says.

They are recalled for what the items of a history say, or for names that a caller gives. Two experts of the
mix (`mix.settings`) are made of them: their similarity to an item, and what the recommender says where they
are inserted before the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.mix.settings import ExpertWeights
from llmcdsr_lite.recall import FloatArray, NameVectors, RecallNetwork
from llmcdsr_lite.search.protocol import Rows, Scores

Asked = Literal["auto", "off"] | Sequence[str]  # what a caller may ask for, one user


@dataclass(frozen=True, eq=False)
class PseudoItems:
    """Pseudo items for one history.

    Parameters
    ----------
    domain : Domain
        That they are of.
    weights : ExpertWeights
        Of them, `similar` and `inserted` count here.
    direction : float32 array (H',)
        The pooled names, of length 1.
    rows : int64 array (k,)
        Item rows, most similar first; empty where nobody asked for them.
    similarities : float32 array (k,)
        Cosines.
    """

    domain: Domain
    weights: ExpertWeights
    direction: FloatArray
    rows: Rows
    similarities: Scores

    def __str__(self) -> str:
        said = []
        if self.weights.inserted:
            share = "" if self.weights.inserted == 1 else f", weight {self.weights.inserted:.3g}"
            said.append(f"insert {len(self.rows)} items before the history{share}")
        if self.weights.similar:
            said.append(f"add {self.weights.similar:.3g} x cosine to the scores")
        return " and ".join(said)

    def sequence(self, history: npt.NDArray[np.integer[Any]], max_length: int) -> Rows:
        """The history with them before it, the least similar first; the newest `max_length` items at most."""
        return np.concatenate([self.rows[::-1], history[-max_length:].astype(np.int64)])[-max_length:]

    def n_seen(self, history_length: int, max_length: int) -> int:
        """How many of them are in `sequence`: the most similar."""
        return max(0, min(len(self.rows), max_length - history_length))


class PseudoRecall:
    """Recalls pseudo items for histories.

    Parameters
    ----------
    catalogue : Catalogue
    network : RecallNetwork
    mixes : tuple of two DomainMix
        For target domain A, target domain B.
    max_length : int
        Of the recommender: older items of a history count for nothing here either.
    names : NameVectors, optional
        Needed for names that a caller gives.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        network: RecallNetwork,
        mixes: Mixes,
        max_length: int,
        names: NameVectors | None = None,
    ) -> None:
        self.network = network
        self.max_length = max_length
        self._catalogue = catalogue
        self._mixes = mixes
        self._names = names or NameVectors(catalogue, network)

    def recall(
        self,
        histories: Sequence[npt.NDArray[np.integer[Any]]],
        domain: Domain | None,
        asked: Sequence[Asked],
        *,
        rows_always: bool = False,
    ) -> list[PseudoItems | None]:
        """Pseudo items for each history, None where it gets none.

        ``auto`` gives some to a history that has items, but none of the domain. Without a domain they
        are of the domain that a history has no item of, and nothing is inserted: it would change the scores
        of the other domain, too.

        Parameters
        ----------
        histories : sequence of n int arrays
            Item rows.
        domain : Domain or None
            The domain that is asked for.
        asked : sequence of n "auto", "off" or names
        rows_always : bool
            Recall items even where only the direction is needed.

        Raises
        ------
        UsageError
            If there are names and no domain, or free text and no encoder.
        """
        found: list[PseudoItems | None] = [None] * len(histories)
        wanted: dict[tuple[int, ExpertWeights, bool], list[tuple[int, FloatArray]]] = {}
        for i, (history, what) in enumerate(zip(histories, asked, strict=True)):
            chosen = self._names_of(history, domain, what)
            if chosen is not None:
                index, weights, vectors = chosen
                weigh = not isinstance(what, str) or self._mixes[index].source == "titles"
                wanted.setdefault((index, weights, weigh), []).append((i, vectors))
        for (index, weights, weigh), users in wanted.items():
            of = self._catalogue.domains[index]
            directions = self.network.directions([vectors for _, vectors in users], index, weigh=weigh)
            rows, similarities = np.zeros((len(users), 0), np.int64), np.zeros((len(users), 0), np.float32)
            if rows_always or weights.inserted:
                k = self._mixes[index].n_recalled
                rows, similarities = self.network.nearest(directions, of.start, of.stop, k)
            for n, (i, _) in enumerate(users):
                found[i] = PseudoItems(of, weights, directions[n], rows[n], similarities[n])
        return found

    def _names_of(
        self, history: npt.NDArray[np.integer[Any]], domain: Domain | None, asked: Asked
    ) -> tuple[int, ExpertWeights, FloatArray] | None:
        """Index of the domain, weights and vectors of names (m, H') for one history, if it gets any."""
        if isinstance(asked, str):
            index = None if asked == "off" else self._missing_domain(history, domain)
            if index is None:
                return None
            cold = self._mixes[index].cold
            weights = ExpertWeights(similar=cold.similar, inserted=0.0 if domain is None else cold.inserted)
            if not weights.recalls:
                return None
            vectors = self.network.said(history[-self.max_length :])
        else:
            if domain is None:
                raise UsageError("pseudo: names need the domain that is asked for")
            index = self._catalogue.domains.index(domain)
            weights = self._mixes[index].named
            vectors = self._names(asked, index)
        return (index, weights, vectors) if len(vectors) else None

    def _missing_domain(self, history: npt.NDArray[np.integer[Any]], domain: Domain | None) -> int | None:
        """Index of the domain that a history has no item of: the one asked for, or any."""
        if not len(history):
            return None
        in_second = history >= self._catalogue.domains[1].start
        n_second = int(np.count_nonzero(in_second))
        missing = 1 if n_second == 0 else 0 if n_second == len(history) else None
        if missing is None or domain not in (None, self._catalogue.domains[missing]):
            return None
        return missing
