"""From histories and pseudo items to ranked item rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.mix.dense import DenseExperts, popularity
from llmcdsr_lite.mix.mixture import Mixture
from llmcdsr_lite.model.backends import Backend, Representations
from llmcdsr_lite.pseudo import Recalled, make_recaller
from llmcdsr_lite.request import Asked, Request
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter, Rows, Scores, Search
from llmcdsr_lite.search.top_k import nothing
from llmcdsr_lite.text.encoder_object import Encoder


class Ranking:
    """Ranks items for histories of item rows.

    Parameters
    ----------
    bundle : Bundle
    backend : Backend
    search : Search
        Users to whose scores dense experts add something are searched for exactly.
    encoder : Encoder, optional
        For free text among the names that pseudo items are recalled for.
    threads : int
        Of the approximate search for pseudo items.

    Raises
    ------
    UsageError
        If the encoder is of no use to this bundle, or not the one that it was made with.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        search: Search,
        encoder: Encoder | None = None,
        threads: int = 1,
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        self.search = search
        self.encoder = encoder
        self.max_length = bundle.parameters.config.max_length
        self.mixture = Mixture(bundle.catalogue, bundle.mix, bundle.next_counts)
        self._recaller = make_recaller(bundle, encoder, threads, graph=search.name == "hnsw")
        self._exact = ExactSearch(bundle.item_vectors)
        self._popularity = popularity(bundle.item_counts if self.mixture.has_popular else np.zeros(0))
        # made at first use: two threads may both do this, and do the same
        self._popular_search: ExactSearch | None = None
        self._similar_search: ExactSearch | None = None

    def recall(
        self,
        histories: Sequence[Rows],
        domains: Sequence[Domain],
        asked: Sequence[Asked],
        *,
        rows_always: bool = False,
    ) -> list[Recalled]:
        """Pseudo items for each history, see `PseudoRecall.recall`; none without a recall network."""
        if self._recaller is not None:
            return self._recaller.recall(histories, domains, asked, rows_always=rows_always)
        if not all(isinstance(one, str) for one in asked):
            raise UsageError("pseudo: this bundle has no recall network, so names cannot be used")
        return [()] * len(histories)

    def rank(
        self, histories: Sequence[Rows], pseudo: Sequence[Recalled], request: Request
    ) -> tuple[Rows, Scores, npt.NDArray[np.bool_]]:
        """Rows and scores (n, k), and who has neither items nor pseudo items and gets the most popular."""
        plain, dense, empty = self._by_search(histories, pseudo, *request.bounds)
        fallback = np.zeros(len(histories), dtype=bool)
        if plain and len(plain) == len(histories):  # as most are
            return *self._find(histories, pseudo, request), fallback
        rows, scores = nothing(len(histories), request.k)
        for chosen in (plain, dense):
            if chosen:
                some, of_some = [histories[i] for i in chosen], [pseudo[i] for i in chosen]
                rows[chosen], scores[chosen] = self._find(some, of_some, request, dense=chosen is dense)
        if empty:
            # all of them have an empty history: one answer serves them all
            rows[empty], scores[empty] = self._popular(request)
            fallback[empty] = True
        return rows, scores, fallback

    def _by_search(
        self, histories: Sequence[Rows], pseudo: Sequence[Recalled], start: int, stop: int
    ) -> tuple[list[int], list[int], list[int]]:
        """Users that are searched for, those that are with dense experts, those with nothing to go by."""
        plain, dense, empty = [], [], []
        for i, (history, items) in enumerate(zip(histories, pseudo, strict=True)):
            if not items and not len(history):
                empty.append(i)
            elif any(p.weights.similar for p in items) or self.mixture.popular(history, start, stop):
                dense.append(i)
            else:
                plain.append(i)
        return plain, dense, empty

    def _find(
        self,
        histories: Sequence[Rows],
        pseudo: Sequence[Recalled],
        request: Request,
        *,
        dense: bool = False,
    ) -> tuple[Rows, Scores]:
        """Rows and scores (n, k) of users with something to go by, dense experts for all or none."""
        users = self.represent(histories, pseudo)
        blocked = [request.blocked(rows) for rows in histories]
        found: list[tuple[Rows, Scores]] = []
        for start, stop in request.ranges:
            bonuses = [self.mixture.bonus(history, start, stop) for history in histories]
            wanted = RowFilter(start, stop, blocked, request.allowed)
            of_users = None if all(bonus is None for bonus in bonuses) else bonuses
            if dense:
                experts = self._dense(histories, pseudo, start, stop)
                rows, scores = self._exact.search(users, request.k, wanted, of_users, experts)
            else:
                rows, scores = self.search.search(users, request.k, wanted, of_users)
            if found:
                scores += self._shifts(histories, start, request.bounds[0])
            found.append((rows, scores))
        return _best_of_ranges(found, request.k)

    def _shifts(self, histories: Sequence[Rows], row: int, first: int) -> Scores:
        """Offset of a row's domain, less that of the domain of the first row asked for: (n, 1)."""
        offset = self.mixture.offset
        shifts = [[offset(history, row) - offset(history, first)] for history in histories]
        return np.array(shifts, dtype=np.float32)

    def _popular(self, request: Request) -> tuple[Rows, Scores]:
        """Most popular items (1, k), scored by their share of the interactions of the rows asked for."""
        counts = self.bundle.item_counts
        if self._popular_search is None:
            self._popular_search = ExactSearch(counts.astype(np.float32)[:, None])
        one = np.ones((1, 1), dtype=np.float32)
        rows, scores = _nearest(self._popular_search, one, request, request.excluded)
        total = sum(float(counts[start:stop].sum(dtype=np.float64)) for start, stop in request.ranges)
        return rows, scores / np.float32(max(1.0, total))

    def similar(self, items: Rows, request: Request) -> tuple[Rows, Scores]:
        """Rows and cosines (k,) of the items most like the mean of the given ones, which are left out."""
        if self._similar_search is None:
            vectors = self.bundle.item_vectors
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            self._similar_search = ExactSearch(vectors / np.maximum(norms, 1e-12))
        search = self._similar_search
        mean = search.item_vectors[items].mean(axis=0, keepdims=True)  # (1, H)
        if len(items) > 1:
            mean /= max(float(np.linalg.norm(mean)), 1e-12)
        rows, cosines = _nearest(search, mean, request, np.concatenate([items, request.excluded]))
        return rows[0], cosines[0]

    def scores(
        self,
        histories: Sequence[Rows],
        pseudo: Sequence[Recalled],
        items: tuple[int, int],
        asked: tuple[int, int] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Scores of items after each history, as they are ranked.

        Parameters
        ----------
        histories : sequence of n int64 arrays
        pseudo : sequence of n tuples of PseudoItems
        items : (int, int)
            Rows ``start <= row < stop`` of one domain.
        asked : (int, int), optional
            Rows that are asked for with them; the items alone if not given.

        Returns
        -------
        float32 array (n, items)
        """
        table = self.bundle.item_vectors[slice(*items)]
        scores: npt.NDArray[np.float32] = np.asarray(self.represent(histories, pseudo) @ table.T, np.float32)
        start, stop = asked or items
        self._dense(histories, pseudo, start, stop).add(scores, slice(0, len(histories)), np.arange(*items))
        for history, of_history in zip(histories, scores, strict=True):
            bonus = self.mixture.bonus(history, start, stop)
            if bonus is not None:
                bonus.add(of_history, *items)
        return scores

    def shares(self, row: int, history: Rows, pseudo: Recalled, start: int, stop: int) -> dict[str, float]:
        """Share of the model, and of everything that is added to it, in the score of one item, by name."""
        users = self.represent([history, history], [(), pseudo])
        model, with_inserted = (users @ self.bundle.item_vectors[row]).tolist()
        shares = {"model": model, "inserted": with_inserted - model}
        experts = self._dense([history], [pseudo], start, stop)
        for name, alone in (
            ("popular", replace(experts, similar=[{}])),
            ("similar", replace(experts, popular=[{}])),
        ):
            added = np.zeros((1, 1), dtype=np.float32)
            alone.add(added, slice(0, 1), np.array([row]))
            shares[name] = float(added[0, 0])
        return shares | self.mixture.shares(history, row, start, stop)

    def represent(self, histories: Sequence[Rows], pseudo: Sequence[Recalled]) -> Representations:
        """User representations (n, H), moved by what is inserted; zero where there is nothing."""
        users = self._represent(histories)
        inserted = [(i, p) for i, items in enumerate(pseudo) for p in items if p.weights.inserted]
        if inserted:
            sequences = [p.sequence(histories[i], self.max_length) for i, p in inserted]
            weights = np.array([[p.weights.inserted] for _, p in inserted], dtype=np.float32)
            chosen = [i for i, _ in inserted]
            users[chosen] += weights * (self._represent(sequences) - users[chosen])
        return users

    def _represent(self, sequences: Sequence[Rows]) -> Representations:
        if sequences and all(map(len, sequences)):
            return _finite(self.backend.represent(sequences))
        users = np.zeros((len(sequences), self.bundle.item_vectors.shape[1]), dtype=np.float32)
        filled = [i for i, sequence in enumerate(sequences) if len(sequence)]
        if filled:
            users[filled] = _finite(self.backend.represent([sequences[i] for i in filled]))
        return users

    def _dense(
        self, histories: Sequence[Rows], pseudo: Sequence[Recalled], start: int, stop: int
    ) -> DenseExperts:
        items = None if self.bundle.recall is None else self.bundle.recall.items
        popular = [self.mixture.popular(history, start, stop) for history in histories]
        similar = [
            {p.domain: p.weights.similar * p.direction for p in recalled if p.weights.similar}
            for recalled in pseudo
        ]
        return DenseExperts(self._popularity, items, popular, similar)


def _nearest(
    search: ExactSearch, vector: npt.NDArray[np.float32], request: Request, blocked: Rows
) -> tuple[Rows, Scores]:
    """Rows and scores (1, k) of the highest dot products with a vector (1, H), among what is asked for."""
    found = [
        search.search(vector, request.k, RowFilter(start, stop, [blocked], request.allowed))
        for start, stop in request.ranges
    ]
    return _best_of_ranges(found, request.k)


def _best_of_ranges(found: Sequence[tuple[Rows, Scores]], k: int) -> tuple[Rows, Scores]:
    """Merge what searches of several ranges found: the k best, ties by row."""
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
