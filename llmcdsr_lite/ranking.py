"""From histories and pseudo items to ranked item rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.backend import Backend, Representations
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Domain, Ranges
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.mix.dense import DenseExperts, popularity
from llmcdsr_lite.mix.mixture import Mixture
from llmcdsr_lite.pseudo import Recalled
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter, Rows, Scores, Search
from llmcdsr_lite.search.top_k import nothing


@dataclass(frozen=True)
class Filters:
    """Which item rows may be recommended.

    Parameters
    ----------
    ranges : tuple of (int, int)
        ``start <= row < stop``, one or more.
    allowed : int64 array, optional
        Nothing but these, sorted and distinct.
    excluded : int64 array
        None of these.
    seen : tuple of (int, int)
        Nothing of the history whose row is in one of these ranges. Pseudo items are not of it: they may be
        recommended.
    """

    ranges: Ranges
    allowed: Rows | None
    excluded: Rows
    seen: Ranges

    @property
    def bounds(self) -> tuple[int, int]:
        """First row asked for, and the one after the last."""
        return self.ranges[0][0], self.ranges[-1][1]

    def blocked(self, history: Rows) -> Rows:
        """What a user with this history must not get."""
        if not self.seen:
            return self.excluded
        start, stop = self.bounds
        first, last = self.seen[0]
        if len(self.seen) > 1 or first > start or last < stop:
            history = history[np.any([(history >= a) & (history < b) for a, b in self.seen], axis=0)]
        return np.concatenate([history, self.excluded]) if len(self.excluded) else history


class Ranking:
    """Ranks items for histories of item rows.

    Parameters
    ----------
    bundle : Bundle
    backend : Backend
    search : Search
        Users to whose scores dense experts add something are searched for exactly.
    """

    def __init__(self, bundle: Bundle, backend: Backend, search: Search) -> None:
        self._bundle = bundle
        self._backend = backend
        self._search = search
        self._exact = ExactSearch(bundle.item_vectors)
        self._max_length = bundle.parameters.config.max_length
        self.mixture = Mixture(bundle.catalogue, bundle.mix, bundle.next_counts)
        self._popularity = popularity(bundle.item_counts if self.mixture.has_popular else np.zeros(0))
        self._popular_search: ExactSearch | None = None

    def rank(
        self, histories: Sequence[Rows], pseudo: Sequence[Recalled], k: int, filters: Filters
    ) -> tuple[Rows, Scores, npt.NDArray[np.bool_]]:
        """Rows and scores (n, k), and who has neither items nor pseudo items and gets the most popular."""
        plain, dense, empty = self._by_search(histories, pseudo, *filters.bounds)
        if plain and len(plain) == len(histories):  # as most are
            return *self._find(histories, pseudo, k, filters), np.zeros(len(histories), dtype=bool)
        rows, scores = nothing(len(histories), k)
        for chosen in (plain, dense):
            if chosen:
                some, of_some = [histories[i] for i in chosen], [pseudo[i] for i in chosen]
                rows[chosen], scores[chosen] = self._find(some, of_some, k, filters, dense=chosen is dense)
        fallback = np.zeros(len(histories), dtype=bool)
        if empty:
            # all of them have an empty history: one answer serves them all
            rows[empty], scores[empty] = self._popular(k, filters)
            fallback[empty] = True
        return rows, scores, fallback

    def _find(
        self,
        histories: Sequence[Rows],
        pseudo: Sequence[Recalled],
        k: int,
        filters: Filters,
        *,
        dense: bool = False,
    ) -> tuple[Rows, Scores]:
        """Rows and scores (n, k) of users with something to go by, dense experts for all or none."""
        users = self.represent(histories, pseudo)
        blocked = [filters.blocked(rows) for rows in histories]
        found: list[tuple[Rows, Scores]] = []
        for start, stop in filters.ranges:
            bonuses = [self.mixture.bonus(history, start, stop) for history in histories]
            wanted = RowFilter(start, stop, blocked, filters.allowed)
            of_users = None if all(bonus is None for bonus in bonuses) else bonuses
            if dense:
                experts = self._dense(histories, pseudo, start, stop)
                rows, scores = self._exact.search(users, k, wanted, of_users, experts)
            else:
                rows, scores = self._search.search(users, k, wanted, of_users)
            if found:
                scores += self._shifts(histories, start, filters)
            found.append((rows, scores))
        return best_of_ranges(found, k)

    def _shifts(self, histories: Sequence[Rows], row: int, filters: Filters) -> Scores:
        """How much the offset of a row's domain is above that of the first one asked for: (n, 1)."""
        offset, first = self.mixture.offset, filters.bounds[0]
        shifts = [[offset(history, row) - offset(history, first)] for history in histories]
        return np.array(shifts, dtype=np.float32)

    def scores(
        self,
        row: int,
        histories: Sequence[Rows],
        pseudo: Sequence[Recalled],
        start: int,
        stop: int,
    ) -> npt.NDArray[np.float32]:
        """Score of one item after each history (n,), where ``start <= row < stop`` are the rows asked for."""
        wanted = np.array([row])
        scores = self.represent(histories, pseudo) @ self._bundle.item_vectors[wanted].T  # (n, 1)
        self._dense(histories, pseudo, start, stop).add(scores, slice(0, len(histories)), wanted)
        for i, history in enumerate(histories):
            bonus = self.mixture.bonus(history, start, stop)
            if bonus is not None:
                scores[i] += bonus.of(wanted).astype(scores.dtype)
        found: npt.NDArray[np.float32] = scores[:, 0]
        return found

    def shares(self, row: int, history: Rows, pseudo: Recalled, start: int, stop: int) -> dict[str, float]:
        """What the model and everything that is added give to the score of one item, by name."""
        wanted = np.array([row])
        users = self.represent([history, history], [(), pseudo])
        model, with_inserted = (users @ self._bundle.item_vectors[row]).tolist()
        shares = {"model": model, "inserted": with_inserted - model}
        popular = self.mixture.popular(history, start, stop)
        for name, weights, one in (("popular", popular, ()), ("similar", {}, pseudo)):
            added = np.zeros((1, 1), dtype=np.float32)
            experts = DenseExperts(self._popularity, self._recall_items, [weights], [one])
            experts.add(added, slice(0, 1), wanted)
            shares[name] = float(added[0, 0])
        return shares | self.mixture.shares(history, row, start, stop)

    def domain_scores(
        self, histories: Sequence[Rows], domain: Domain, pseudo: Sequence[Recalled]
    ) -> npt.NDArray[np.float32]:
        """Score of every item of a domain after each history (n, items), as items are ranked."""
        users = self.represent(histories, pseudo)
        table = self._bundle.item_vectors[domain.start : domain.stop]
        scores: npt.NDArray[np.float32] = np.asarray(users @ table.T, dtype=np.float32)
        rows = np.arange(domain.start, domain.stop)
        dense = self._dense(histories, pseudo, domain.start, domain.stop)
        dense.add(scores, slice(0, len(histories)), rows)
        for i, history in enumerate(histories):
            bonus = self.mixture.bonus(history, domain.start, domain.stop)
            if bonus is not None:
                bonus.add(scores[i], domain.start, domain.stop)
        return scores

    def represent(self, histories: Sequence[Rows], pseudo: Sequence[Recalled]) -> Representations:
        """User representations (n, H), moved by what is inserted; zero where there is nothing."""
        users = self._represent(histories)
        inserted = [(i, p) for i, items in enumerate(pseudo) for p in items if p.weights.inserted]
        if inserted:
            sequences = [p.sequence(histories[i], self._max_length) for i, p in inserted]
            weights = np.array([[p.weights.inserted] for _, p in inserted], dtype=np.float32)
            chosen = [i for i, _ in inserted]
            users[chosen] += weights * (self._represent(sequences) - users[chosen])
        return users

    def _represent(self, sequences: Sequence[Rows]) -> Representations:
        if all(map(len, sequences)):
            return _finite(self._backend.represent(sequences))
        users = np.zeros((len(sequences), self._bundle.item_vectors.shape[1]), dtype=np.float32)
        filled = [i for i, sequence in enumerate(sequences) if len(sequence)]
        if filled:
            users[filled] = _finite(self._backend.represent([sequences[i] for i in filled]))
        return users

    @property
    def _recall_items(self) -> npt.NDArray[np.floating[Any]] | None:
        return None if self._bundle.recall is None else self._bundle.recall.items

    def _dense(
        self, histories: Sequence[Rows], pseudo: Sequence[Recalled], start: int, stop: int
    ) -> DenseExperts:
        popular = [self.mixture.popular(history, start, stop) for history in histories]
        return DenseExperts(self._popularity, self._recall_items, popular, pseudo)

    def _is_dense(self, history: Rows, pseudo: Recalled, start: int, stop: int) -> bool:
        similar = any(items.weights.similar for items in pseudo)
        return similar or bool(self.mixture.popular(history, start, stop))

    def _by_search(
        self, histories: Sequence[Rows], pseudo: Sequence[Recalled], start: int, stop: int
    ) -> tuple[list[int], list[int], list[int]]:
        """Who is searched for, who is with dense experts, and who has nothing to go by."""
        plain, dense, empty = [], [], []
        for i, (history, items) in enumerate(zip(histories, pseudo, strict=True)):
            if not items and not len(history):
                empty.append(i)
            elif self._is_dense(history, items, start, stop):
                dense.append(i)
            else:
                plain.append(i)
        return plain, dense, empty

    def _popular(self, k: int, filters: Filters) -> tuple[Rows, Scores]:
        """Most popular items, scored by their share of the interactions of the rows asked for."""
        counts = self._bundle.item_counts
        if self._popular_search is None:  # two threads may both do this: they do the same
            self._popular_search = ExactSearch(counts.astype(np.float32)[:, None])
        search, one = self._popular_search, np.ones((1, 1), dtype=np.float32)
        found = [
            search.search(one, k, RowFilter(start, stop, [filters.excluded], filters.allowed))
            for start, stop in filters.ranges
        ]
        rows, scores = best_of_ranges(found, k)
        total = sum(float(counts[start:stop].sum(dtype=np.float64)) for start, stop in filters.ranges)
        return rows, scores / np.float32(max(1.0, total))


def best_of_ranges(found: Sequence[tuple[Rows, Scores]], k: int) -> tuple[Rows, Scores]:
    """The k best of what searches of several ranges found, ties by row."""
    if len(found) == 1:
        return found[0]
    rows = np.concatenate([some for some, _ in found], axis=1)
    scores = np.concatenate([some for _, some in found], axis=1)
    best = np.lexsort((rows, -scores), axis=1)[:, :k]
    # where there is no item the row is 0, before all others, but the score lower than any of them
    return np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)


def _finite(users: Representations) -> Representations:
    """Refuse what would make nonsense of scores: weights can be finite and too large for float32 together."""
    if not np.isfinite(users).all():
        raise BundleError("the model of this bundle gives values that are not finite for a history")
    return users
