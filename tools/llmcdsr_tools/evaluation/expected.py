"""Measures against drawn negatives, in expectation over the draw, from the rank in the whole domain."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

N_NEGATIVES = 999

Ranks = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class ExpectedMetrics:
    """HR@k and NDCG@k against `N_NEGATIVES` negatives, in expectation over their draw.

    With r of the other items ahead of the target, the number ahead among n negatives drawn without
    replacement is hypergeometric.

    Parameters
    ----------
    n_items : int
        Of the domain.
    k : int
    """

    def __init__(self, n_items: int, k: int = 10) -> None:
        n_others = n_items - 1
        n_drawn = min(N_NEGATIVES, n_others)
        ahead = np.arange(n_others + 1)[:, None]  # (ranks, 1)
        drawn = np.arange(k)  # of those ahead
        log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n_others + 1)))])
        of_place = np.exp(
            _log_choose(log_factorial, ahead, drawn)
            + _log_choose(log_factorial, n_others - ahead, n_drawn - drawn)
            - _log_choose(log_factorial, np.array(n_others), np.array(n_drawn))
        )  # (ranks, k)
        self._hit = of_place.sum(axis=1)
        self._gain = of_place @ (1 / np.log2(drawn + 2))

    def hits(self, rank: Ranks) -> FloatArray:
        """Expected hits (n,) of zero-based ranks (n,) in the whole domain; a rank beyond it is a miss."""
        return _of_rank(self._hit, rank)

    def gains(self, rank: Ranks) -> FloatArray:
        """Expected gains of NDCG (n,) of zero-based ranks (n,)."""
        return _of_rank(self._gain, rank)


def _of_rank(values: FloatArray, rank: Ranks) -> FloatArray:
    found: FloatArray = np.where(rank < len(values), values[np.minimum(rank, len(values) - 1)], 0.0)
    return found


def _log_choose(
    log_factorial: FloatArray, n: npt.NDArray[np.integer[Any]], k: npt.NDArray[np.integer[Any]]
) -> FloatArray:
    """Logarithm of "n choose k", -inf where there is no choice."""
    possible = (k >= 0) & (k <= n)
    n, k = np.where(possible, n, 0), np.where(possible, k, 0)
    return np.where(possible, log_factorial[n] - log_factorial[k] - log_factorial[n - k], -np.inf)
