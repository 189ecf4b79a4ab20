"""Pseudo items at request time: for whom, which, and what is made of them.

A setting says what. ``insert``: the recalled items join the sequence that the recommender sees.
``fuse``: the cosine between the pooled names and an item, times a weight, is added to the item's score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.recall import FloatArray, NameVectors, RecallNetwork
from llmcdsr_lite.search.protocol import Rows, Scores

PseudoMode = Literal["off", "insert", "fuse"]
Place = Literal["front", "spread"]
Scope = Literal["domain", "recalled"]
Source = Literal["titles", "companions", "both", "names"]
Asked = Literal["auto", "off"] | Sequence[str]  # what a caller may ask for, one user
MAX_PSEUDO_ITEMS = 1000
MAX_WEIGHT = 1e6


@dataclass(frozen=True)
class PseudoSetting:
    """What is done with pseudo items.

    Parameters
    ----------
    mode : {"off", "insert", "fuse"}
    k : int
        How many items are recalled. With the scope ``domain`` they only serve to explain.
    place : {"front", "spread"}
        insert: before the history, or evenly among its items, each before a real one. Either way the
        least similar comes first, and the last item stays real.
    scope : {"domain", "recalled"}
        fuse: whether all items of the domain get their similarity added, or the recalled ones alone.
    weight : float
        fuse: what a cosine of 1 adds to a score.

    Raises
    ------
    UsageError
        If a value cannot be meant.
    """

    mode: PseudoMode = "off"
    k: int = 10
    place: Place = "front"
    scope: Scope = "domain"
    weight: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in (("mode", PseudoMode), ("place", Place), ("scope", Scope)):
            if getattr(self, name) not in get_args(kind):
                expected = ", ".join(map(repr, get_args(kind)))
                raise UsageError(f"{name} is {getattr(self, name)!r}, expected one of {expected}")
        if type(self.k) is not int or not 1 <= self.k <= MAX_PSEUDO_ITEMS:
            raise UsageError(f"k is {self.k!r}, expected a number from 1 to {MAX_PSEUDO_ITEMS}")
        if type(self.weight) is not float or not 0 <= self.weight <= MAX_WEIGHT:
            raise UsageError(f"weight is {self.weight!r}, expected a number from 0 to {MAX_WEIGHT:g}")
        if self.mode == "fuse" and self.weight == 0:
            raise UsageError("weight is 0, expected more for the mode 'fuse'")

    def __str__(self) -> str:
        if self.mode == "off":
            return "off"
        if self.mode == "insert":
            where = "before the history" if self.place == "front" else "spread over the history"
            return f"insert {self.k} items {where}"
        to = "all items" if self.scope == "domain" else f"the {self.k} most similar items"
        return f"add {self.weight:.3g} x cosine to the scores of {to}"


@dataclass(frozen=True)
class PseudoChoice:
    """What a bundle does for one target domain.

    Parameters
    ----------
    auto : PseudoSetting
        For histories without an item of the domain; ``off`` where pseudo items did not earn their place.
    names : PseudoSetting
        Where the caller gives names; never ``off``.
    validation : mapping
        JSON-able: how `auto` was chosen and what it is worth.
    source : {"titles", "companions", "both", "names"}
        What the items of a history say: their titles; what other users who have them have in the domain;
        both, mixed; or the names that a language model wrote for them.
    """

    auto: PseudoSetting = PseudoSetting()
    names: PseudoSetting = PseudoSetting("insert", place="spread")
    validation: Mapping[str, Any] = field(default_factory=dict)
    source: Source = "titles"

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise UsageError(f"source is {self.source!r}, expected one of {', '.join(get_args(Source))}")
        if self.names.mode == "off":
            raise UsageError("names: mode is 'off', expected 'insert' or 'fuse'")


@dataclass(frozen=True, eq=False)
class PseudoItems:
    """Pseudo items for one history.

    Parameters
    ----------
    domain : Domain
        That they are of.
    setting : PseudoSetting
    direction : float32 array (H',)
        The pooled names, of length 1.
    rows : int64 array (k,)
        Item rows, most similar first; empty where nobody asked for them.
    similarities : float32 array (k,)
        Cosines.
    """

    domain: Domain
    setting: PseudoSetting
    direction: FloatArray
    rows: Rows
    similarities: Scores

    def sequence(
        self, history: npt.NDArray[np.integer[Any]], max_length: int
    ) -> npt.NDArray[np.integer[Any]]:
        """What the recommender sees instead of `history`: the newest `max_length` items at most."""
        if self.setting.mode != "insert":
            return history
        return insert_items(history[-max_length:], self.rows, self.setting.place)[-max_length:]

    def n_seen(self, history_length: int, max_length: int) -> int:
        """How many of the inserted items are left where the sequence is cut; the most similar are."""
        real = np.zeros(min(history_length, max_length), dtype=np.int64)
        inserted = insert_items(real, np.ones_like(self.rows), self.setting.place)
        return int(inserted[-max_length:].sum())


class PseudoRecall:
    """Recalls pseudo items for histories.

    Parameters
    ----------
    catalogue : Catalogue
    network : RecallNetwork
    choices : tuple of two PseudoChoice
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
        choices: tuple[PseudoChoice, PseudoChoice],
        max_length: int,
        names: NameVectors | None = None,
    ) -> None:
        self.network = network
        self.max_length = max_length
        self._catalogue = catalogue
        self._choices = choices
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
        are of the domain that a history has no item of, and ``insert`` does not apply: it would change
        the scores of the other domain, too.

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
        wanted: dict[tuple[int, PseudoSetting, bool], list[tuple[int, FloatArray]]] = {}
        for i, (history, what) in enumerate(zip(histories, asked, strict=True)):
            chosen = self._names_of(history[-self.max_length :], domain, what)
            if chosen is not None:
                index, setting, vectors = chosen
                weigh = not isinstance(what, str) or self._choices[index].source == "titles"
                wanted.setdefault((index, setting, weigh), []).append((i, vectors))
        for (index, setting, weigh), users in wanted.items():
            of = self._catalogue.domains[index]
            directions = self.network.directions([vectors for _, vectors in users], index, weigh=weigh)
            rows, similarities = np.zeros((len(users), 0), np.int64), np.zeros((len(users), 0), np.float32)
            if rows_always or setting.mode == "insert" or setting.scope == "recalled":
                rows, similarities = self.network.nearest(directions, of.start, of.stop, setting.k)
            for n, (i, _) in enumerate(users):
                found[i] = PseudoItems(of, setting, directions[n], rows[n], similarities[n])
        return found

    def _names_of(
        self, history: npt.NDArray[np.integer[Any]], domain: Domain | None, asked: Asked
    ) -> tuple[int, PseudoSetting, FloatArray] | None:
        """Index of the domain, setting and vectors of names (m, H') for one history, if it gets any."""
        if isinstance(asked, str):
            index = None if asked == "off" else self._missing_domain(history, domain)
            if index is None:
                return None
            setting = self._choices[index].auto
            if setting.mode == "off" or (setting.mode == "insert" and domain is None):
                return None
            vectors = self.network.said(history)
        else:
            if domain is None:
                raise UsageError("pseudo: names need the domain that is asked for")
            index = self._catalogue.domains.index(domain)
            setting = self._choices[index].names
            vectors = self._names(asked, index)
        return (index, setting, vectors) if len(vectors) else None

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


def insert_items(history: npt.NDArray[np.integer[Any]], pseudo: Rows, place: Place) -> Rows:
    """History (n,) with pseudo items (k,), most similar first, put in: (n + k,).

    ``front``: before the history. ``spread``: the j-th of them goes before item ``j * n // k``. The least
    similar comes first.
    """
    before = np.zeros(len(pseudo), dtype=np.int64)
    if place == "spread" and len(pseudo):
        before = np.arange(len(pseudo)) * len(history) // len(pseudo)
    return np.insert(history.astype(np.int64, copy=False), before, pseudo[::-1])
