"""Which experts are weighed for a target domain and kind of user: those whose gain on validation is sure.

Forward selection by NDCG@10 in the whole domain, cross-fitted: weights are fitted on one half of the users
and measured on the other, both ways, so that what is claimed was not fitted. An expert is taken if its gain
less `MARGIN` standard errors (paired, clustered by user) is above zero, both for the mean position and for
the mean user: the few users with most positions alone must not decide for all. In the end the weights of the
chosen ones are fitted on all positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.mix.weights import EXPERTS, N_SPARSE, ExpertWeights
from llmcdsr_tools.evaluation.comparison import MARGIN
from llmcdsr_tools.evaluation.measures import gains, standard_error
from llmcdsr_tools.mix.positions import Positions
from llmcdsr_tools.mix.regression import fit_weights

LEAST_USERS = 50  # on fewer nothing is learned
SPARSE: tuple[int, ...] = tuple(range(N_SPARSE))  # experts by their place in `EXPERTS`
RECALLED = EXPERTS.index("similar"), EXPERTS.index("inserted")
POPULAR = EXPERTS.index("popular")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Learned:
    """Weights, and what was measured when they were chosen.

    Parameters
    ----------
    weights : ExpertWeights
    n_targets, n_users : int
    ndcg10_model, ndcg10 : float
        NDCG@10 in the whole domain of the model alone and, cross-fitted, of the mix; nan without targets.
    gain, standard_error : float
        Their paired difference.
    sure : float
        What is sure of the gain, see `sure_gain`.
    """

    weights: ExpertWeights
    n_targets: int
    n_users: int
    ndcg10_model: float
    ndcg10: float
    gain: float
    standard_error: float
    sure: float = 0.0

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        names = ("n_targets", "n_users", "ndcg10_model", "ndcg10", "gain", "standard_error")
        return {name: getattr(self, name) for name in names}


def learn_weights(positions: Positions, seed: int = 0, experts: Sequence[int] = SPARSE) -> Learned:
    """Choose among some experts and fit their weights."""
    fold = _Fold(positions, seed)
    chosen: list[int] = []
    best = fold.alone
    while fold.is_enough and len(chosen) < len(experts):
        tried = {e: fold.crossed([*chosen, e]) for e in experts if e not in chosen}
        sure = {e: sure_gain(found - best, positions.users) for e, found in tried.items()}
        surest = max(sure, key=lambda e: sure[e])
        if sure[surest] <= 0:
            break
        chosen.append(surest)
        best = tried[surest]
    return fold.learned(chosen, best)


def fit_experts(positions: Positions, seed: int = 0, experts: Sequence[int] = RECALLED) -> Learned:
    """Fit the weights of experts that are there in any case."""
    fold = _Fold(positions, seed)
    return fold.learned(experts, fold.crossed(experts)) if fold.is_enough else fold.learned([], fold.alone)


class _Fold:
    """Positions in two halves, by user: weights that are fitted on one are measured on the other."""

    def __init__(self, positions: Positions, seed: int) -> None:
        self._positions = positions
        users = np.unique(positions.users)
        drawn = np.random.default_rng([seed, 12]).permutation(users)[: len(users) // 2]
        first = np.isin(positions.users, drawn)
        self._halves = [np.flatnonzero(first), np.flatnonzero(~first)]
        self._parts = [positions.take(half) for half in self._halves]
        self._n_users = len(users)
        self.is_enough = len(users) >= LEAST_USERS
        self.alone = gains(ranks(positions, np.zeros(len(EXPERTS))))

    def crossed(self, experts: Sequence[int]) -> Floats:
        """Gains of all positions, each with weights that the other half's were fitted on."""
        found = np.zeros(len(self._positions))
        for half, own, other in zip(self._halves, self._parts, self._parts[::-1], strict=True):
            found[half] = gains(ranks(own, _at(experts, fit_weights(other, experts))))
        return found

    def learned(self, experts: Sequence[int], crossed: Floats) -> Learned:
        """The experts' weights, fitted on all positions, and what they gave cross-fitted."""
        n = len(self._positions)
        if not self.is_enough:
            nan = float("nan")
            return Learned(ExpertWeights(), n, self._n_users, nan, nan, 0.0, nan)
        difference = crossed - self.alone
        return Learned(
            ExpertWeights(*_at(experts, fit_weights(self._positions, experts)).tolist()),
            n,
            self._n_users,
            float(self.alone.mean()),
            float(crossed.mean()),
            float(difference.mean()),
            standard_error(difference, self._positions.users),
            sure_gain(difference, self._positions.users),
        )


def _at(experts: Sequence[int], weights: Floats) -> Floats:
    """Weights of all experts (experts,), zero but for these."""
    found = np.zeros(len(EXPERTS))
    found[list(experts)] = weights
    return found


def sure_gain(differences: Floats, users: npt.NDArray[np.int64]) -> float:
    """Least that is sure of the mean difference (n,), over positions and over users."""
    distinct, place, counts = np.unique(users, return_inverse=True, return_counts=True)
    of_users = np.bincount(place, differences) / counts
    return float(
        min(
            differences.mean() - MARGIN * standard_error(differences, users),
            of_users.mean() - MARGIN * standard_error(of_users, distinct),
        )
    )


def ranks(positions: Positions, weights: Floats, *, exclude_seen: bool = False) -> npt.NDArray[np.int64]:
    """Zero-based rank of every target with the weights (experts,), as long as it is below ten.

    With `exclude_seen`, items of the history are left out, a target among them is out of reach.
    """
    totals = positions.scores + positions.values @ weights.astype(np.float32)
    targets = np.flatnonzero(positions.is_target)
    of_target = totals[targets]
    owner = positions.owner
    counted = ~positions.is_sampled & ~positions.is_target
    if exclude_seen:
        counted &= ~positions.is_seen
    ahead = counted & (totals >= of_target[owner])
    rank = np.bincount(owner[ahead], minlength=len(positions))
    rank += (positions.top_untouched >= of_target[:, None]).sum(axis=1)
    if exclude_seen:
        rank[positions.is_seen[targets]] = np.iinfo(np.int32).max
    found: npt.NDArray[np.int64] = rank
    return found
