"""Softmax regression of what came next on the model's score and the experts' values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from llmcdsr_lite.mix.weights import MAX_WEIGHT
from llmcdsr_tools.mix.positions import Positions

RIDGE = 1e-4
_LEAST = 1e-2  # of the model's coefficient: the weights are in units of it

FloatArray = npt.NDArray[np.floating[Any]]


def log_loss(
    coefficients: npt.NDArray[np.float64], positions: Positions, features: npt.NDArray[np.float64]
) -> tuple[float, npt.NDArray[np.float64]]:
    """Mean negative log-likelihood of the targets, with a ridge, and its gradient.

    ``log sum_c exp(log_weight_c + x_c . b) - x_target . b`` for each position, plus ``RIDGE / 2 |b|^2``.

    Parameters
    ----------
    coefficients : float64 array (f,)
    positions : Positions
        Each with a target.
    features : float64 array (candidates, f)
    """
    starts, owner = positions.starts[:-1], positions.owner
    logits = features @ coefficients
    shifted = logits + positions.log_weights
    shifted -= np.maximum.reduceat(shifted, starts)[owner]
    p = np.exp(shifted)
    total = np.add.reduceat(p, starts)
    p /= total[owner]
    targets = positions.is_target
    n = len(positions)
    # the weight of a target is 1, so the logarithm of its share is its log-likelihood
    loss = -float(np.log(np.maximum(p[targets], 1e-300)).sum()) / n
    gradient = (p @ features - features[targets].sum(axis=0)) / n
    ridge = RIDGE * coefficients
    return loss + float(ridge @ coefficients) / 2, gradient + ridge


def fit_weights(positions: Positions, experts: Sequence[int]) -> npt.NDArray[np.float64]:
    """Weights of some experts, by their place in `EXPERTS`, in units of the model's score; from 0.

    Returns
    -------
    float64 array (len(experts),)
    """
    if not len(positions) or not len(experts):
        return np.zeros(len(experts))
    columns = [positions.scores[:, None], positions.values[:, list(experts)]]
    features = np.concatenate(columns, axis=1).astype(np.float64)
    start = np.concatenate([[1.0], np.full(len(experts), 0.1)])
    bounds = [(_LEAST, None)] + [(0.0, None)] * len(experts)
    found = minimize(log_loss, start, (positions, features), method="L-BFGS-B", jac=True, bounds=bounds)
    weights: npt.NDArray[np.float64] = np.minimum(found.x[1:] / found.x[0], MAX_WEIGHT)
    return weights
