"""Histories to rank for, and what came next: the last item of a history, or every position of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_tools.data.dataset import Dataset, Histories, Positions, Split

COLD_MIN_HISTORY = 3

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Queries:
    """Histories to rank for, with the items that came next.

    Parameters
    ----------
    histories : list of int arrays
        Item rows, oldest first, none empty.
    targets : int64 array (n,)
        Item rows.
    users : int64 array (n,), optional
        Whose histories they are, for standard errors; each of its own if it is not given.
    """

    histories: list[IntArray]
    targets: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64] | None = None

    @classmethod
    def from_split(cls, histories: Histories) -> Queries:
        """The last item of every history is its target; users with nothing before it are left out."""
        return _at(histories, ((user, [len(h) - 1]) for user, h in enumerate(histories)))

    @classmethod
    def of_data(cls, data: Dataset, split: Split, positions: Positions) -> Queries:
        """Queries of a split: the last item of each history, or every item that earlier splits do not have.

        Where items are left out one by one, histories of a later split begin with those of an earlier one; an
        item that training has seen as a target would measure memory.
        """
        histories = data.split(split)
        if positions == "last":
            return cls.from_split(histories)
        seen = seen_lengths(data, split)
        places = ((user, range(seen[user], len(h))) for user, h in enumerate(histories))
        return _at(histories, places)

    def cold(self, catalogue: Catalogue) -> Queries:
        """The cold cross-domain form: no item of the target's domain in the history, three or more left."""
        of_target = catalogue.domain_indices(self.targets)
        cold = [
            history[catalogue.domain_indices(history) != domain]
            for history, domain in zip(self.histories, of_target, strict=True)
        ]
        kept = np.flatnonzero([len(history) >= COLD_MIN_HISTORY for history in cold])
        return Queries([cold[i] for i in kept.tolist()], self.targets[kept], self.user_of[kept])

    def into(self, domain: Domain) -> Queries:
        """The queries whose target is in `domain`."""
        return self.take(np.flatnonzero((self.targets >= domain.start) & (self.targets < domain.stop)))

    def take(self, chosen: npt.NDArray[np.int64]) -> Queries:
        """Some of the queries."""
        return Queries(
            [self.histories[i] for i in chosen.tolist()], self.targets[chosen], self.user_of[chosen]
        )

    def joined(self, others: Queries) -> Queries:
        """These queries, then the others."""
        return Queries(
            [*self.histories, *others.histories],
            np.concatenate([self.targets, others.targets]),
            np.concatenate([self.user_of, others.user_of]),
        )

    def sample(self, most: int, seed: int = 0) -> Queries:
        """At most so many queries, those of users drawn at random as long as they fit."""
        if len(self.targets) <= most:
            return self
        users, counts = np.unique(self.user_of, return_counts=True)
        order = np.random.default_rng([seed, 9]).permutation(len(users))
        n_users = max(1, int(np.searchsorted(np.cumsum(counts[order]), most, side="right")))
        return self.take(np.flatnonzero(np.isin(self.user_of, users[order[:n_users]])))

    @property
    def user_of(self) -> npt.NDArray[np.int64]:
        """User of every query (n,)."""
        return np.arange(len(self.targets)) if self.users is None else self.users

    def __len__(self) -> int:
        return len(self.targets)


def _at(histories: Histories, places: Iterable[tuple[int, Iterable[int]]]) -> Queries:
    """Queries at some places of each user's history, but the first: there is nothing before it."""
    pairs = [(user, place) for user, some in places for place in some if place >= 1]
    before: list[IntArray] = [histories[user][:place] for user, place in pairs]
    targets = np.array([histories[user][place] for user, place in pairs], dtype=np.int64)
    return Queries(before, targets, np.array([user for user, _ in pairs], dtype=np.int64))


def seen_lengths(data: Dataset, split: Split) -> npt.NDArray[np.int64]:
    """How many items of each history of a split are the same user's history in an earlier split (users,).

    A user is known by id, and by the history: official data sets count users anew in every file.
    """
    histories = data.split(split)
    seen = np.zeros(len(histories), dtype=np.int64)
    earlier: tuple[Split, ...] = ("train", "valid")
    for name in earlier[: earlier.index(split)] if split in earlier else earlier:
        others = data.split(name)
        place_of = {user: place for place, user in enumerate(others.users)}
        for user, user_id in enumerate(histories.users):
            place = place_of.get(user_id)
            if place is not None:
                before, rows = others[place], histories[user]
                if len(before) <= len(rows) and np.array_equal(before, rows[: len(before)]):
                    seen[user] = max(seen[user], len(before))
    return seen
