"""Whether, how many, where and with what weight pseudo items help: chosen on validation, for each domain.

The cold cross-domain queries of the validation users are ranked without pseudo items and with every
setting of a grid. The best is the one with the highest HR@10, then NDCG@10, 999 negatives. It is taken
only if its HR@10 is above that of "off" by `MARGIN` standard errors of the paired difference: of so many
settings the best lies one above by luck alone, and pseudo items must never make a bundle worse.

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
from llmcdsr_tools.evaluate import COLD_MIN_HISTORY, N_NEGATIVES, Queries, draw_negatives
from llmcdsr_tools.pseudo_trials import MARGIN, PseudoTrials, Trial, Trials
from llmcdsr_tools.recall_export import SourcedNetwork

NUMBERS = (1, 3, 5, 10, 20)
PLACES: tuple[Place, ...] = ("front", "spread")
# Weights as shares of what the recommender's scores vary, over what the cosines vary: a scale that fits
# every model.
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)
FUSED: tuple[tuple[Scope, int], ...] = (("domain", 10), ("recalled", 10), ("recalled", 50))

_CHUNK = 256  # users at a time

FloatArray = npt.NDArray[np.floating[Any]]
Ranks = npt.NDArray[np.int64]


def choose_pseudo(
    backend: Backend,
    item_embedding: FloatArray,
    dataset: Dataset,
    networks: Sequence[SourcedNetwork],
    *,
    max_length: int,
    seed: int = 0,
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
    seed : int
        Of the negatives, as in `evaluate`.
    margin : float
        Standard errors of the paired difference that a gain in HR@10 needs.

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
        return _Comparison(backend, item_embedding, networks[0].network, queries, domain, max_length, seed)

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
    """The queries of one target domain, and the items that each target is ranked among."""

    def __init__(
        self,
        backend: Backend,
        item_embedding: FloatArray,
        network: RecallNetwork,
        queries: Queries,
        domain: Domain,
        max_length: int,
        seed: int,
    ) -> None:
        self._backend = backend
        self._table = item_embedding
        self._recalled_items = network.items
        self._histories = queries.histories
        self._domain = domain
        self._max_length = max_length
        negatives = draw_negatives(queries.targets, domain, N_NEGATIVES, seed)
        self._items = np.concatenate([queries.targets[:, None], negatives], axis=1)  # (n, 1 + negatives)

    def trials(self, said: Sequence[tuple[Source, Sequence[PseudoItems | None]]], margin: float) -> Trials:
        """Try everything with the pseudo items of each source."""
        n_users = len(self._histories)
        if not n_users:
            nothing = Trial(PseudoSetting(), math.nan, math.nan, math.nan, math.nan)
            return Trials(self._domain.name, 0, nothing, (), margin)
        scores = self._scores(self._histories)  # (n, 1 + negatives)
        off = _rank(scores)
        tried = [
            _trial(setting, rank, off, source)
            for source, pseudo in said
            for setting, rank in self._tried(scores, pseudo)
        ]
        return Trials(self._domain.name, n_users, _trial(PseudoSetting(), off, off), tuple(tried), margin)

    def _tried(
        self, scores: FloatArray, pseudo: Sequence[PseudoItems | None]
    ) -> Iterator[tuple[PseudoSetting, Ranks]]:
        """Every setting, and the ranks that the targets have with it."""
        for place in PLACES:
            for k in NUMBERS:
                setting = PseudoSetting("insert", k, place)
                yield setting, _rank(self._scores(self._sequences(pseudo, setting)))
        cosines = self._cosines(pseudo)
        scale = float(scores.std()) / max(float(cosines.std()), 1e-6)
        for scope, k in FUSED:
            bonus = cosines if scope == "domain" else cosines * self._recalled(pseudo, k)
            for share in SHARES:
                setting = PseudoSetting("fuse", k, scope=scope, weight=share * scale)
                yield setting, _rank(scores + np.float32(setting.weight) * bonus)

    def _scores(self, histories: Sequence[npt.NDArray[np.integer[Any]]]) -> FloatArray:
        """Scores of the target (first) and its negatives (n, 1 + negatives)."""
        table = self._table[self._domain.start : self._domain.stop]
        scores = np.empty(self._items.shape, dtype=np.float32)
        for chunk in _chunks(len(histories)):
            whole = self._backend.represent(histories[chunk]) @ table.T  # (chunk, items of the domain)
            scores[chunk] = np.take_along_axis(whole, self._items[chunk] - self._domain.start, axis=1)
        return scores

    def _cosines(self, pseudo: Sequence[PseudoItems | None]) -> FloatArray:
        """Cosines to the pooled names, zero for users without any (n, 1 + negatives)."""
        vectors = self._recalled_items[self._domain.start : self._domain.stop]
        cosines = np.zeros(self._items.shape, dtype=np.float32)
        for i, items in enumerate(pseudo):
            if items is not None:
                cosines[i] = vectors[self._items[i] - self._domain.start] @ items.direction
        return cosines

    def _recalled(self, pseudo: Sequence[PseudoItems | None], k: int) -> npt.NDArray[np.bool_]:
        """Which of the items are among the user's k pseudo items (n, 1 + negatives)."""
        found = np.zeros(self._items.shape, dtype=bool)
        for i, items in enumerate(pseudo):
            if items is not None:
                found[i] = np.isin(self._items[i], items.rows[:k])
        return found

    def _sequences(
        self, pseudo: Sequence[PseudoItems | None], setting: PseudoSetting
    ) -> list[npt.NDArray[np.integer[Any]]]:
        """Histories with pseudo items in them."""
        sequences = []
        for history, items in zip(self._histories, pseudo, strict=True):
            if items is not None:
                few = replace(items, setting=setting, rows=items.rows[: setting.k])
                history = few.sequence(history, self._max_length)
            sequences.append(history)
        return sequences


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, n, _CHUNK))


def _rank(scores: FloatArray) -> Ranks:
    """Zero-based rank of the first column, ties and nan against it (n,)."""
    rank: Ranks = (~(scores[:, 1:] < scores[:, :1])).sum(axis=1)
    return rank


def _trial(setting: PseudoSetting, rank: Ranks, off: Ranks, source: Source = "titles") -> Trial:
    hits = rank < 10
    difference = hits.astype(float) - (off < 10)
    n = len(rank)
    return Trial(
        setting,
        float(hits.mean()),
        float((hits / np.log2(rank + 2)).mean()),
        float(difference.mean()),
        float(difference.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf,
        source,
    )
