"""Weights of the mix: what is added to a score of the sequence model, for a target domain and kind of user.

The score of an item i of domain t is ``f . e_i + sum over experts x of w_x * x_i``, with f the user
representation and e_i the item vector. A weight is in units of the model's score (a logit) for one unit of
the expert. The first three experts are sparse, zero but for few items. The others are for histories without
items of the domain; the last two speak of the pseudo items that are recalled for these, or for names that a
caller gives.

======== ============================================================================================
expert   x_i
======== ============================================================================================
next     ``log(1 + NEXT_SCALE * n_i)``, n_i the sum of the next-item counts (`NextCounts`) of the newest
         `NEXT_ITEMS` items of the history, each weighed by ``NEXT_DECAY ** age``
repeat   ``log(1 + times that i is in the history)``
recent   ``RECENT_DECAY ** age`` of the newest place of i in the history; the last item has age 0
popular  ``log(1 + n_i)``, n_i the training interactions of i
similar  the cosine of the vector of i that recall searches to the pooled names
inserted ``(g - f) . e_i``, g the representation of the history with pseudo items before it
======== ============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Literal, get_args

from llmcdsr_lite.errors import UsageError

NEXT_SCALE = 20.0
NEXT_ITEMS = 20
NEXT_DECAY = 0.8
RECENT_DECAY = 0.9
MAX_WEIGHT = 1e4

Kind = Literal[
    "warm", "cold", "named"
]  # has items of the target domain in the history; none; names are given
KINDS: tuple[Kind, ...] = get_args(Kind)
Source = Literal["titles", "companions", "both", "names"]
MAX_RECALLED = 1000


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if type(value) is not float or not math.isfinite(value) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}, expected a number from {least:g} to {most:g}")


@dataclass(frozen=True)
class ExpertWeights:
    """Weight of every expert, from 0; see the module's text.

    Raises
    ------
    UsageError
        If a weight is not a number in its range.
    """

    next: float = 0.0
    repeat: float = 0.0
    recent: float = 0.0
    popular: float = 0.0
    similar: float = 0.0
    inserted: float = 0.0

    def __post_init__(self) -> None:
        for name in EXPERTS:
            _check_number(name, getattr(self, name), 0.0, MAX_WEIGHT)

    def __str__(self) -> str:
        given = [f"{name} {getattr(self, name):.3g}" for name in EXPERTS if getattr(self, name)]
        return "model + " + " + ".join(given) if given else "model alone"

    @property
    def values(self) -> tuple[float, ...]:
        """Weights in the order of `EXPERTS`."""
        return astuple(self)

    @property
    def sparse(self) -> tuple[float, ...]:
        """Weights of the first, sparse experts."""
        return self.values[:N_SPARSE]

    @property
    def recalls(self) -> bool:
        """True if experts are weighed that need pseudo items."""
        return bool(self.similar or self.inserted)


EXPERTS: tuple[str, ...] = tuple(f.name for f in fields(ExpertWeights))
N_SPARSE = EXPERTS.index("popular")


@dataclass(frozen=True)
class DomainMix:
    """The mix for one target domain.

    Parameters
    ----------
    warm, cold : ExpertWeights
        For users with items of the domain in the history, and without. The first weigh sparse experts alone.
    named : ExpertWeights
        Of pseudo items that are recalled for names that a caller gives, in place of those of `cold`; not all
        zero, and the sparse experts are.
    source : {"titles", "companions", "both", "names"}
        What the items of a history say where nobody gives names: their titles; what other users who have them
        have in the domain; both, mixed; or the names that a language model wrote for them.
    n_recalled : int
        How many pseudo items are recalled.
    offset : float
        Added to the scores of the domain where several domains are asked for, so that they are comparable.
    offset_last : float
        Added besides where the last item of the history is of the domain.
    exclude_seen : bool
        Whether items of the history are left out, unless a caller says.
    validation : mapping
        JSON-able: what was measured when all this was chosen.
    """

    warm: ExpertWeights = ExpertWeights()
    cold: ExpertWeights = ExpertWeights()
    named: ExpertWeights = ExpertWeights(inserted=1.0)
    source: Source = "titles"
    n_recalled: int = 10
    offset: float = 0.0
    offset_last: float = 0.0
    exclude_seen: bool = True
    validation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("offset", "offset_last"):
            _check_number(name, getattr(self, name), -MAX_WEIGHT, MAX_WEIGHT)
        if self.warm.popular or self.warm.recalls:
            raise UsageError(
                f"warm is {self.warm}, expected weights of {', '.join(EXPERTS[:N_SPARSE])} alone"
            )
        if any(self.named.sparse) or self.named.popular or not self.named.recalls:
            raise UsageError(f"named is {self.named}, expected weights of pseudo items alone")
        if self.source not in get_args(Source):
            raise UsageError(f"source is {self.source!r}, expected one of {', '.join(get_args(Source))}")
        if type(self.n_recalled) is not int or not 1 <= self.n_recalled <= MAX_RECALLED:
            raise UsageError(f"n_recalled is {self.n_recalled!r}, expected a number from 1 to {MAX_RECALLED}")
        if type(self.exclude_seen) is not bool:
            raise UsageError(f"exclude_seen is {self.exclude_seen!r}, expected true or false")

    def __str__(self) -> str:
        seen = "left out" if self.exclude_seen else "ranked"
        without = "" if self.cold == self.warm else f"; without items of the domain {self.cold}"
        if self.cold.recalls:
            without += f" (recalled by {self.source})"
        return f"{self.warm}{without}; items of the history {seen}"
