"""Whether, how many, where and with what weight pseudo items help: chosen on validation, for each domain.

The cold cross-domain queries of the validation users are ranked without pseudo items and with every setting
of a grid, for everything that the items of a history can say. A setting's merit is its HR@10 against 999
negatives, in expectation over the draw of the negatives: with the rank in the whole domain it is known
exactly, so no luck of the draw decides. What is taken, see `Trials.winner`.

The same is done for names that a caller gives (`PseudoTrials.names`), on the queries of users who had items
of the domain before these were taken out: the names are those items.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.backend import Backend
from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.pseudo import (
    Asked,
    Place,
    PseudoChoice,
    PseudoItems,
    PseudoRecall,
    PseudoSetting,
    Scope,
    Source,
)
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_tools.dataset import Dataset
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.queries import COLD_MIN_HISTORY, Queries
from llmcdsr_tools.export.pseudo_trials import MARGIN, PseudoTrials, Ranks, Trial, Trials, trial
from llmcdsr_tools.export.recall import SourcedNetwork

NUMBERS = (1, 3, 5, 10, 20)
PLACES: tuple[Place, ...] = ("front", "spread")
# Weights as shares of what the recommender's scores vary, over what the cosines vary: a scale that fits
# every model.
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)
FUSED: tuple[tuple[Scope, int], ...] = (("domain", 10), ("recalled", 10), ("recalled", 50))

_CHUNK = 256  # users at a time

FloatArray = npt.NDArray[np.floating[Any]]


def choose_pseudo(
    backend: Backend,
    item_embedding: FloatArray,
    dataset: Dataset,
    networks: Sequence[SourcedNetwork],
    *,
    max_length: int,
    margin: float = MARGIN,
) -> tuple[PseudoTrials, PseudoTrials]:
    """Try a grid of settings on the cold cross-domain queries of the validation users.

    Parameters
    ----------
    backend : Backend
        Gives the user representations.
    item_embedding : float array (items + 1, H)
    dataset : Dataset
    networks : sequence of SourcedNetwork
        One for everything that the items of a history can say; every setting is tried with each.
    max_length : int
        Of the recommender.
    margin : float
        Standard errors of the paired difference that are taken off a gain.

    Returns
    -------
    tuple of two PseudoTrials
        For target domain A and target domain B.
    """
    most = PseudoSetting("insert", max(max(NUMBERS), *(k for _, k in FUSED)))
    recallers = []
    for sourced in networks:
        choice = PseudoChoice(most, most, source=sourced.source)
        recaller = PseudoRecall(dataset.catalogue, sourced.network, (choice, choice), max_length)
        recallers.append((sourced.source, recaller))
    everyone = Queries.from_split(dataset.valid)
    cold = everyone.cold(dataset.catalogue)

    def compare(queries: Queries, domain: Domain) -> _Comparison:
        return _Comparison(backend, item_embedding, networks[0].network, queries, domain, max_length)

    found = []
    for domain in dataset.catalogue.domains:
        titles = cold.into(domain)
        auto: list[Asked] = ["auto"] * len(titles.histories)
        said = [(source, r.recall(titles.histories, domain, auto)) for source, r in recallers]
        queries, names = _named(everyone.into(domain), dataset.catalogue)
        given = [(recallers[0][0], recallers[0][1].recall(queries.histories, domain, names))]
        found.append(
            PseudoTrials(
                compare(titles, domain).trials(said, margin), compare(queries, domain).trials(given, margin)
            )
        )
    a, b = found
    return a, b


def _named(queries: Queries, catalogue: Catalogue) -> tuple[Queries, list[list[str]]]:
    """The cold queries of users who had items of the target's domain, and the ids of these items."""
    cold, names, targets = [], [], []
    for history, target in zip(queries.histories, queries.targets.tolist(), strict=True):
        start = catalogue.domains[1].start
        inside = (history >= start) == (target >= start)
        if inside.any() and np.count_nonzero(~inside) >= COLD_MIN_HISTORY:
            cold.append(history[~inside])
            names.append([catalogue.ids[row - 1] for row in history[inside].tolist()])
            targets.append(target)
    return Queries(cold, np.array(targets, dtype=np.int64)), names


class _Comparison:
    """The queries of one target domain, and what every setting makes of their ranks."""

    def __init__(
        self,
        backend: Backend,
        item_embedding: FloatArray,
        network: RecallNetwork,
        queries: Queries,
        domain: Domain,
        max_length: int,
    ) -> None:
        self._backend = backend
        self._table = item_embedding[domain.start : domain.stop]
        self._recalled_items = network.items[domain.start : domain.stop]
        self._histories = queries.histories
        self._columns = queries.targets - domain.start
        self._domain = domain
        self._max_length = max_length

    def trials(self, said: Sequence[tuple[Source, Sequence[PseudoItems | None]]], margin: float) -> Trials:
        """Try everything with the pseudo items of each source."""
        n_users = len(self._histories)
        if not n_users:
            nothing = Trial(PseudoSetting(), math.nan, math.nan, math.nan, math.nan)
            return Trials(self._domain.name, 0, nothing, (), margin)
        measure = ExpectedMetrics(self._domain.n_items)
        off = np.empty(n_users, dtype=np.int64)
        ranks: dict[tuple[Source, PseudoSetting], Ranks] = {}
        scale = None
        for chunk in _chunks(n_users):
            scores = self._scores(self._histories[chunk])  # (chunk, items of the domain)
            off[chunk] = self._rank(scores, chunk)
            for source, pseudo in said:
                cosines = self._cosines(pseudo[chunk])
                # one scale for all, so that weights mean the same everywhere
                scale = scale or float(scores.std()) / max(float(cosines.std()), 1e-6)
                for setting, rank in self._tried(chunk, scores, cosines, pseudo[chunk], scale):
                    ranks.setdefault((source, setting), np.empty_like(off))[chunk] = rank
        tried = tuple(trial(measure, setting, rank, off, source) for (source, setting), rank in ranks.items())
        return Trials(self._domain.name, n_users, trial(measure, PseudoSetting(), off, off), tried, margin)

    def _tried(
        self,
        chunk: slice,
        scores: FloatArray,
        cosines: FloatArray,
        pseudo: Sequence[PseudoItems | None],
        scale: float,
    ) -> Iterator[tuple[PseudoSetting, Ranks]]:
        """Every setting, and the ranks that the targets of a chunk have with it."""
        for place in PLACES:
            for k in NUMBERS:
                setting = PseudoSetting("insert", k, place)
                yield setting, self._rank(self._scores(self._sequences(chunk, pseudo, setting)), chunk)
        for scope, k in FUSED:
            bonus = cosines if scope == "domain" else self._of_recalled(cosines, pseudo, k)
            for share in SHARES:
                setting = PseudoSetting("fuse", k, scope=scope, weight=share * scale)
                yield setting, self._rank(scores + np.float32(setting.weight) * bonus, chunk)

    def _scores(self, histories: Sequence[npt.NDArray[np.integer[Any]]]) -> FloatArray:
        scores: FloatArray = self._backend.represent(histories) @ self._table.T
        return scores

    def _rank(self, scores: FloatArray, chunk: slice) -> Ranks:
        """Zero-based rank of each target in its domain, ties and nan against it."""
        of_target = np.take_along_axis(scores, self._columns[chunk, None], axis=1)
        rank: Ranks = np.count_nonzero(~(scores < of_target), axis=1) - 1
        return rank

    def _cosines(self, pseudo: Sequence[PseudoItems | None]) -> FloatArray:
        """Cosines to the pooled names, zero for users without any (chunk, items of the domain)."""
        directions = np.zeros((len(pseudo), self._recalled_items.shape[1]), dtype=np.float32)
        for i, items in enumerate(pseudo):
            if items is not None:
                directions[i] = items.direction
        cosines: FloatArray = directions @ self._recalled_items.T
        return cosines

    def _of_recalled(self, cosines: FloatArray, pseudo: Sequence[PseudoItems | None], k: int) -> FloatArray:
        """The cosines of the k pseudo items of each user, zero for all others."""
        kept = np.zeros_like(cosines)
        for i, items in enumerate(pseudo):
            if items is not None:
                columns = items.rows[:k] - self._domain.start
                kept[i, columns] = cosines[i, columns]
        return kept

    def _sequences(
        self, chunk: slice, pseudo: Sequence[PseudoItems | None], setting: PseudoSetting
    ) -> list[npt.NDArray[np.integer[Any]]]:
        """Histories of a chunk with pseudo items in them."""
        sequences = []
        for history, items in zip(self._histories[chunk], pseudo, strict=True):
            if items is not None:
                few = replace(items, setting=setting, rows=items.rows[: setting.k])
                history = few.sequence(history, self._max_length)
            sequences.append(history)
        return sequences


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK))
