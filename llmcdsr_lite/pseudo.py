"""Pseudo items at request time: for whom, and which; the mix says what is made of them.

They are recalled by the names that the items of a history stand for, or by those that a caller gives. Two
experts of the mix (`mix.weights`) are made of them: their similarity to an item, and the change of its score
where they are inserted before the history.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.mix.weights import ExpertWeights
from llmcdsr_lite.recall import FloatArray, NameVectors, RecallNetwork
from llmcdsr_lite.request import Asked
from llmcdsr_lite.search.hnsw import HnswSearch
from llmcdsr_lite.search.protocol import Rows, Scores
from llmcdsr_lite.text.encoder_object import Encoder


@dataclass(frozen=True, eq=False)
class PseudoItems:
    """Pseudo items for one history.

    Parameters
    ----------
    domain : Domain
    weights : ExpertWeights
        `similar` and `inserted` alone count here.
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
        parts = []
        if self.weights.inserted:
            share = "" if self.weights.inserted == 1 else f", weight {self.weights.inserted:.3g}"
            parts.append(f"insert {len(self.rows)} items before the history{share}")
        if self.weights.similar:
            parts.append(f"add {self.weights.similar:.3g} x cosine to the scores")
        return " and ".join(parts)

    def sequence(self, history: npt.NDArray[np.integer[Any]], max_length: int) -> Rows:
        """Rows (n,) of them, the least similar first, and the history; the newest `max_length` at most."""
        return np.concatenate([self.rows[::-1], history[-max_length:].astype(np.int64)])[-max_length:]

    def n_seen(self, history_length: int, max_length: int) -> int:
        """Number of them in `sequence`: the most similar."""
        return max(0, min(len(self.rows), max_length - history_length))


Recalled = tuple[PseudoItems, ...]  # of one user, at most those of each domain that is asked for


class PseudoRecall:
    """Recalls pseudo items for histories.

    Parameters
    ----------
    catalogue : Catalogue
    network : RecallNetwork
    mixes : tuple of DomainMix
        Of each target domain.
    max_length : int
        Of the recommender: older items of a history count for nothing here either.
    encoder : Encoder, optional
        The one that the network was trained with, for free text among the names that a caller gives.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        network: RecallNetwork,
        mixes: Mixes,
        max_length: int,
        encoder: Encoder | None = None,
    ) -> None:
        self.network = network
        self.max_length = max_length
        self._catalogue = catalogue
        self._mixes = mixes
        self._names = NameVectors(catalogue, network, encoder)

    def recall(
        self,
        histories: Sequence[npt.NDArray[np.integer[Any]]],
        domains: Sequence[Domain],
        asked: Sequence[Asked],
        *,
        rows_always: bool = False,
    ) -> list[Recalled]:
        """Pseudo items for each history.

        ``auto`` gives some to a history that has items, but none of a domain that is asked for. Where
        several are, nothing is inserted: it would change the scores of the others, too.

        Parameters
        ----------
        histories : sequence of n int arrays
            Item rows.
        domains : sequence of Domain
            Those that are asked for.
        asked : sequence of n "auto", "off" or names
        rows_always : bool
            Recall items even where only the direction is needed.

        Raises
        ------
        UsageError
            If there are names and not one domain alone, or free text and no encoder.
        """
        recalled: list[Recalled] = [()] * len(histories)
        indices = [self._catalogue.domains.index(domain) for domain in domains]
        users_of: dict[tuple[int, ExpertWeights, bool], list[tuple[int, FloatArray]]] = {}
        for user, (history, pseudo) in enumerate(zip(histories, asked, strict=True)):
            for index, weights, names in self._names_by_domain(history, indices, pseudo):
                weigh = not isinstance(pseudo, str) or self._mixes[index].source == "titles"
                users_of.setdefault((index, weights, weigh), []).append((user, names))
        # by domain, so that a user's do not depend on who else is asked for
        for (index, weights, weigh), users in sorted(users_of.items(), key=lambda item: item[0][0]):
            domain = self._catalogue.domains[index]
            directions = self.network.directions([names for _, names in users], index, weigh=weigh)
            rows, similarities = np.zeros((len(users), 0), np.int64), np.zeros((len(users), 0), np.float32)
            if rows_always or weights.inserted:
                k = self._mixes[index].n_recalled
                rows, similarities = self.network.nearest(directions, domain.start, domain.stop, k)
            for n, (user, _) in enumerate(users):
                recalled[user] += (PseudoItems(domain, weights, directions[n], rows[n], similarities[n]),)
        return recalled

    def _names_by_domain(
        self, history: npt.NDArray[np.integer[Any]], indices: Sequence[int], asked: Asked
    ) -> Iterator[tuple[int, ExpertWeights, FloatArray]]:
        """Indices of the domains that one user gets pseudo items of, their weights and names (m, H')."""
        if not isinstance(asked, str):
            if len(indices) != 1:
                raise UsageError("pseudo: names need the one domain that is asked for")
            names = self._names(asked, indices[0])
            if len(names):
                yield indices[0], self._mixes[indices[0]].named, names
        elif asked == "auto" and len(history):
            has_items_of = set(self._catalogue.domain_indices(history).tolist())
            for index in indices:
                cold = self._mixes[index].cold
                inserted = cold.inserted if len(indices) == 1 else 0.0
                weights = ExpertWeights(similar=cold.similar, inserted=inserted)
                if index not in has_items_of and weights.recalls:
                    names = self.network.names_of(history[-self.max_length :], index, self._catalogue)
                    if len(names):
                        yield index, weights, names


def make_recaller(
    bundle: Bundle, encoder: Encoder | None, threads: int, *, graph: bool
) -> PseudoRecall | None:
    """Make what recalls pseudo items, None without a recall network; with `graph` by its graph, if there.

    Raises
    ------
    UsageError
        If the encoder is of no use to this bundle, or not the one that it was made with.
    """
    network = bundle.recall
    projections = None if network is None else network.projections
    if encoder is not None:
        _check_encoder(encoder, bundle, projections)
    if network is None:
        return None
    if graph and bundle.index is not None and bundle.index.recall is not None:
        vectors = np.asarray(network.items, dtype=np.float32)
        search = HnswSearch(vectors, bundle.catalogue.domains, threads, bundle.index.recall)
        network = replace(network, search=search)
    max_length = bundle.parameters.config.max_length
    return PseudoRecall(bundle.catalogue, network, bundle.mix, max_length, encoder)


def _check_encoder(encoder: Encoder, bundle: Bundle, projections: FloatArray | None) -> None:
    """Refuse an encoder that neither free text nor the titles of new items can be encoded with."""
    expected = [] if projections is None else [int(projections.shape[2])]
    if bundle.new_items is not None:
        expected.append(bundle.new_items.dimension)
    if not expected:
        lacks = "recall network" if bundle.recall is None else "projections"
        raise UsageError(f"encoder: this bundle has no {lacks}, so there is nothing to encode for")
    for dimension in expected:
        if encoder.dimension != dimension:
            raise UsageError(
                f"encoder: gives {encoder.dimension} values a text, this bundle expects {dimension}: "
                "name the encoder that it was made with"
            )
