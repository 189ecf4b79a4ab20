"""Weights of the mix: what is added to a score of the sequence model, for a target domain and kind of user.

The score of an item i of domain t for a user is

    f . e_i  +  sum over experts x of  w_x * x_i  +  the offset of t (where several domains are asked for)

with f the user representation and e_i the item vector. A weight is in units of the model's score (a logit)
for one unit of the expert; zero takes no time at a request. The experts:

============ ============================================================================================
expert       x_i
============ ============================================================================================
next         ``log(1 + NEXT_SCALE * n_i)``, n_i the decayed sum of next-item counts (`NextCounts`) of the
             newest `NEXT_ITEMS` items of the history
repeat       ``log(1 + times that i is in the history)``
recent       ``RECENT_DECAY ** age`` of the newest place of i in the history, 0 for the last item
popular      ``log((1 + c_i) / (1 + mean of c over the domain))``, c_i the training interactions of i
titles       cosine between i and the pooled projected titles of the history, by the recall network
companions   the same with what other users who have the items of the history have in the domain
item_names   the same with names that a language model gave for the items of the history
inserted     ``(f' - f) . e_i``, f' the representation of the history with recalled items inserted
============ ============================================================================================

The last four are pseudo items: they need an item in the history that says something in the domain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from llmcdsr_lite.errors import UsageError

NEXT_SCALE = 20.0
NEXT_ITEMS = 20  # newest items of a history that next-item counts are summed over
NEXT_DECAY = 0.8  # of a count, for every step of age
RECENT_DECAY = 0.8
MAX_WEIGHT = 1e6
MAX_OFFSET = 1e6
MAX_INSERTED = 1000

Kind = Literal["warm", "cold"]  # has items of the target domain, or none, among those the model looks back on
Place = Literal["front", "spread"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class ExpertWeights:
    """Weight of every expert; see the module's text.

    Parameters
    ----------
    next, repeat, recent, popular, titles, companions, item_names, inserted : float
        From 0; `inserted` at most 1.

    Raises
    ------
    UsageError
        If a weight is not a finite number in its range.
    """

    next: float = 0.0
    repeat: float = 0.0
    recent: float = 0.0
    popular: float = 0.0
    titles: float = 0.0
    companions: float = 0.0
    item_names: float = 0.0
    inserted: float = 0.0

    def __post_init__(self) -> None:
        for name in EXPERTS:
            most = 1.0 if name == "inserted" else MAX_WEIGHT
            _check_number(name, getattr(self, name), 0.0, most)


EXPERTS: tuple[str, ...] = tuple(f.name for f in fields(ExpertWeights))
PSEUDO_EXPERTS = ("titles", "companions", "item_names", "inserted")  # what ``pseudo="off"`` leaves out


@dataclass(frozen=True)
class DomainMix:
    """The mix for one target domain.

    Parameters
    ----------
    warm, cold : ExpertWeights
        For users with items of the domain, and without.
    given : float
        Of the cosine between an item and the names that a caller gives; replaces the pseudo experts.
    given_inserted : float
        Of `inserted`, with items recalled for the names that a caller gives.
    n_recalled : int
        Items that are recalled, to be inserted and to explain.
    place : {"front", "spread"}
        Where they are inserted.
    exclude_seen : bool
        Whether `recommend` leaves out what is in the history unless it is told.
    offset, offset_last, offset_share : float
        Where several domains are asked for, ``offset + offset_last * (the last item of the history is of the
        domain) + offset_share * (share of the domain in the history)`` is added to the domain's scores.
    validation : mapping
        JSON-able: what was measured when the weights were chosen.
    """

    warm: ExpertWeights = ExpertWeights()
    cold: ExpertWeights = ExpertWeights()
    given: float = 0.0
    given_inserted: float = 0.0
    n_recalled: int = 10
    place: Place = "spread"
    exclude_seen: bool = True
    offset: float = 0.0
    offset_last: float = 0.0
    offset_share: float = 0.0
    validation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_number("given", self.given, 0.0, MAX_WEIGHT)
        _check_number("given_inserted", self.given_inserted, 0.0, 1.0)
        for name in ("offset", "offset_last", "offset_share"):
            _check_number(name, getattr(self, name), -MAX_OFFSET, MAX_OFFSET)
        if type(self.n_recalled) is not int or not 1 <= self.n_recalled <= MAX_INSERTED:
            raise UsageError(f"n_recalled is {self.n_recalled!r}, expected a number from 1 to {MAX_INSERTED}")
        if self.place not in get_args(Place):
            raise UsageError(f"place is {self.place!r}, expected one of {', '.join(get_args(Place))}")
        if type(self.exclude_seen) is not bool:
            raise UsageError(f"exclude_seen is {self.exclude_seen!r}, expected true or false")


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if type(value) is not float or not math.isfinite(value) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}, expected a number from {least:g} to {most:g}")
