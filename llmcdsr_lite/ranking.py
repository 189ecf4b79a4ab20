"""From histories and pseudo items to ranked item rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.backend import Backend, Representations
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.fusion import Fusion
from llmcdsr_lite.pseudo import PseudoItems
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import Rows, Scores, Search
from llmcdsr_lite.search.top_k import nothing


@dataclass(frozen=True)
class Filters:
    """Which item rows may be recommended.

    Parameters
    ----------
    start, stop : int
        ``start <= row < stop``.
    allowed : int64 array, optional
        Nothing but these, sorted and distinct.
    excluded : int64 array
        None of these.
    exclude_seen : bool
        Nothing of the history. Pseudo items are not of it: they may be recommended.
    """

    start: int
    stop: int
    allowed: Rows | None
    excluded: Rows
    exclude_seen: bool

    def blocked(self, history: Rows) -> Rows:
        """What a user with this history must not get."""
        if not self.exclude_seen:
            return self.excluded
        return np.concatenate([history, self.excluded]) if len(self.excluded) else history


class Ranking:
    """Ranks items for histories of item rows.

    Parameters
    ----------
    bundle : Bundle
    backend : Backend
    search : Search
        Users to whose scores pseudo items add something are searched for exactly.
    """

    def __init__(self, bundle: Bundle, backend: Backend, search: Search) -> None:
        self._bundle = bundle
        self._backend = backend
        self._search = search
        self._exact = ExactSearch(bundle.item_vectors)
        self._max_length = bundle.parameters.config.max_length
        self._popular_searches: dict[tuple[int, int], ExactSearch] = {}  # by the rows asked for

    def rank(
        self, histories: Sequence[Rows], pseudo: Sequence[PseudoItems | None], k: int, filters: Filters
    ) -> tuple[Rows, Scores, npt.NDArray[np.bool_]]:
        """Rows and scores (n, k), and who has neither items nor pseudo items and gets the most popular."""
        plain, fused, empty = _by_search(histories, pseudo)
        if plain and len(plain) == len(histories):  # as most are
            return *self._find(histories, pseudo, k, filters), np.zeros(len(histories), dtype=bool)
        rows, scores = nothing(len(histories), k)
        for chosen in (plain, fused):
            if chosen:
                some, of_some = [histories[i] for i in chosen], [pseudo[i] for i in chosen]
                rows[chosen], scores[chosen] = self._find(some, of_some, k, filters, fuse=chosen is fused)
        fallback = np.zeros(len(histories), dtype=bool)
        if empty:
            # all of them have an empty history: one answer serves them all
            rows[empty], scores[empty] = self._popular(k, filters)
            fallback[empty] = True
        return rows, scores, fallback

    def _find(
        self,
        histories: Sequence[Rows],
        pseudo: Sequence[PseudoItems | None],
        k: int,
        filters: Filters,
        *,
        fuse: bool = False,
    ) -> tuple[Rows, Scores]:
        """Rows and scores (n, k) of users with something to go by."""
        users = self.represent(histories, pseudo)
        blocked = [filters.blocked(rows) for rows in histories]
        within = (filters.start, filters.stop, blocked, filters.allowed)
        if fuse:
            return self._exact.search(users, k, *within, self._fusion(pseudo))
        return self._search.search(users, k, *within)

    def scores(
        self, row: int, histories: Sequence[Rows], pseudo: Sequence[PseudoItems | None]
    ) -> npt.NDArray[np.float32]:
        """Score of one item after each history (n,)."""
        wanted = np.array([row])
        scores = self.represent(histories, pseudo) @ self._bundle.item_vectors[wanted].T  # (n, 1)
        fusion = self._fusion(pseudo)
        if fusion is not None:
            fusion.add(scores, slice(0, len(histories)), wanted)
        found: npt.NDArray[np.float32] = scores[:, 0]
        return found

    def represent(self, histories: Sequence[Rows], pseudo: Sequence[PseudoItems | None]) -> Representations:
        """User representations (n, H), inserted items included; zero where there is nothing."""
        sequences = [
            history if items is None else items.sequence(history, self._max_length)
            for history, items in zip(histories, pseudo, strict=True)
        ]
        if all(map(len, sequences)):
            return _finite(self._backend.represent(sequences))
        users = np.zeros((len(sequences), self._bundle.item_vectors.shape[1]), dtype=np.float32)
        filled = [i for i, sequence in enumerate(sequences) if len(sequence)]
        if filled:
            users[filled] = _finite(self._backend.represent([sequences[i] for i in filled]))
        return users

    def _fusion(self, pseudo: Sequence[PseudoItems | None]) -> Fusion | None:
        return None if self._bundle.recall is None else Fusion(self._bundle.recall, pseudo)

    def _popular(self, k: int, filters: Filters) -> tuple[Rows, Scores]:
        """Most popular items, scored by their share of the interactions of the rows asked for."""
        start, stop = filters.start, filters.stop
        search = self._popular_searches.get((start, stop))
        if search is None:  # two threads may both do this: they do the same
            counts = self._bundle.item_counts.astype(np.float32)[:, None]
            search = ExactSearch(counts / max(1.0, float(counts[start:stop].sum())))
            self._popular_searches[start, stop] = search
        one = np.ones((1, 1), dtype=np.float32)
        return search.search(one, k, start, stop, [filters.excluded], filters.allowed)


def _finite(users: Representations) -> Representations:
    """Refuse what would make nonsense of scores: weights can be finite and too large for float32 together."""
    if not np.isfinite(users).all():
        raise BundleError("the model of this bundle gives values that are not finite for a history")
    return users


def _by_search(
    histories: Sequence[Rows], pseudo: Sequence[PseudoItems | None]
) -> tuple[list[int], list[int], list[int]]:
    """Who is searched for, who is with something added to the scores, and who has nothing to go by."""
    plain, fused, empty = [], [], []
    for i, items in enumerate(pseudo):
        if items is not None and items.setting.mode == "fuse":
            fused.append(i)
        elif items is not None or len(histories[i]):
            plain.append(i)
        else:
            empty.append(i)
    return plain, fused, empty
