"""Adam (Kingma and Ba, ICLR 2015) for a dense array and for a table of which a step touches few rows.

A step of 128 sequences touches a twentieth of the item table. Dense Adam decays the moments of the other
rows and goes on moving them by what is left of the first. `RowAdam` leaves rows that a step does not touch,
and their moments, as they are: on validation that cost nothing that can be told from chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.sasrec import RowGradient


@dataclass(frozen=True)
class AdamSettings:
    """Constants of Adam; `epsilon` is added to the root of the corrected second moment."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-8


class Adam:
    """Adam on an array that every step touches as a whole.

    Parameters
    ----------
    values : float array
        Updated in place by `step`.
    settings : AdamSettings

    Attributes
    ----------
    first, second : float arrays, the shape of `values`
        Running means of the gradient and of its square.
    n_steps : int
        Steps taken.
    """

    def __init__(self, values: FloatArray, settings: AdamSettings) -> None:
        self.values = values
        self.settings = settings
        self.first = np.zeros_like(values)
        self.second = np.zeros_like(values)
        self.n_steps = 0

    def step(self, gradient: FloatArray) -> None:
        """Take one step along a gradient of the shape of `values`."""
        self.n_steps += 1
        self.values -= adam_change(self.first, self.second, gradient, self.n_steps, self.settings)


class RowAdam(Adam):
    """Adam on a table, moving only the rows that a step touches (see the module's text)."""

    def step_rows(self, gradient: RowGradient) -> None:
        """Take one step along the gradient of some rows."""
        self.n_steps += 1
        rows = gradient.rows
        first, second = self.first[rows], self.second[rows]
        self.values[rows] -= adam_change(first, second, gradient.values, self.n_steps, self.settings)
        self.first[rows], self.second[rows] = first, second


class WeightAverage:
    """Running average of arrays that training changes: what is validated and exported in their place.

    It is the plain mean of the first samples, and an exponential one when there are `horizon` of them
    (averages of weights: Polyak and Juditsky, 1992; Izmailov et al., 2018).

    Parameters
    ----------
    arrays : sequence of float arrays
    horizon : float
        Samples that the average spans, from 1.

    Attributes
    ----------
    means : list of float arrays
    n_samples : int
    """

    def __init__(self, arrays: Sequence[FloatArray], horizon: float) -> None:
        self.arrays = arrays
        self.horizon = horizon
        self.means = [np.zeros_like(array) for array in arrays]
        self.n_samples = 0

    def sample(self) -> None:
        """Take in the arrays as they are."""
        self.n_samples += 1
        share = 1 / min(self.n_samples, self.horizon)
        for mean, array in zip(self.means, self.arrays, strict=True):
            mean *= mean.dtype.type(1 - share)
            mean += mean.dtype.type(share) * array


def adam_change(
    first: FloatArray, second: FloatArray, gradient: FloatArray, n_steps: int, settings: AdamSettings
) -> FloatArray:
    """Update the moments in place by step `n_steps`, from 1, and return what to subtract from the values.

    ``m = b1 m + (1 - b1) g``; ``v = b2 v + (1 - b2) g^2``;
    ``lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)``.
    """
    s = settings
    first *= s.beta1
    first += (1 - s.beta1) * gradient
    second *= s.beta2
    squared = gradient * gradient
    squared *= 1 - s.beta2
    second += squared
    denominator = np.sqrt(second, out=squared)
    denominator *= (1 - s.beta2**n_steps) ** -0.5
    denominator += s.epsilon
    change = first / denominator
    change *= s.learning_rate / (1 - s.beta1**n_steps)
    return change
